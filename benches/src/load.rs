//! What the client does.

/// The traffic that a load is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Http,
    Tls,
    Dns,
}

/// One kind of load. The order is that of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// Small GETs on so many connections that stay.
    KeepAlive(u32),
    /// So many small GETs a second, on eight connections that stay: what a machine carries that is not at its end.
    Paced(u32),
    /// A new connection for each small GET, so many at a time.
    Close(u32),
    /// One large body to the client.
    Download,
    /// One large body to the server.
    Upload,
    /// So many connections are kept after one request each; what is measured is memory.
    Held(u32),
    /// TLS handshakes, so many at a time; one small request each.
    Tls(u32),
    /// DNS queries over UDP, so many outstanding.
    Dns(u32),
}

impl Load {
    /// Of the whole bench.
    pub(crate) const ALL: &[Load] = &[
        Load::KeepAlive(1),
        Load::KeepAlive(8),
        Load::KeepAlive(64),
        Load::Paced(5_000),
        Load::Close(1),
        Load::Close(8),
        Load::Close(64),
        Load::Download,
        Load::Upload,
        Load::Held(10_000),
        Load::Tls(1),
        Load::Tls(8),
        Load::Dns(1),
        Load::Dns(100),
    ];

    /// One of each kind, for the quick form.
    pub(crate) const QUICK: &[Load] = &[
        Load::KeepAlive(8),
        Load::Paced(2_000),
        Load::Close(8),
        Load::Download,
        Load::Upload,
        Load::Held(500),
        Load::Tls(8),
        Load::Dns(1),
    ];

    pub(crate) fn kind(self) -> Kind {
        match self {
            Load::KeepAlive(_) | Load::Paced(_) | Load::Close(_) | Load::Download | Load::Upload | Load::Held(_) => {
                Kind::Http
            }
            Load::Tls(_) => Kind::Tls,
            Load::Dns(_) => Kind::Dns,
        }
    }

    /// As tables and plots name it.
    pub(crate) fn name(self) -> String {
        let plural = |n: u32| if n == 1 { "" } else { "s" };
        match self {
            Load::KeepAlive(n) => format!("keep-alive, {n} connection{}", plural(n)),
            Load::Paced(rate) => format!("{rate} requests a second offered"),
            Load::Close(n) => format!("connection per request, {n} at a time"),
            Load::Download => "bulk download".to_owned(),
            Load::Upload => "bulk upload".to_owned(),
            Load::Held(n) => format!("{n} connections held"),
            Load::Tls(n) => format!("TLS handshakes, {n} at a time"),
            Load::Dns(n) => format!("DNS, {n} quer{} outstanding", if n == 1 { "y" } else { "ies" }),
        }
    }

    /// What its rate counts.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Load::KeepAlive(_) | Load::Paced(_) | Load::Close(_) | Load::Held(_) => "requests/s",
            Load::Download | Load::Upload => "MB/s",
            Load::Tls(_) => "handshakes/s",
            Load::Dns(_) => "queries/s",
        }
    }

    /// So much of the unit is what CPU time is given for.
    pub(crate) fn cpu_per(self) -> (f64, &'static str) {
        match self {
            Load::Download | Load::Upload => (1000.0, "GB"),
            Load::KeepAlive(_) | Load::Paced(_) | Load::Close(_) | Load::Held(_) => (1e5, "100 000 requests"),
            Load::Tls(_) => (1e5, "100 000 handshakes"),
            Load::Dns(_) => (1e5, "100 000 queries"),
        }
    }
}

/// What one run of a load gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// In the load's unit, without its "per second".
    pub(crate) amount: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// CPU seconds of the process that enforces; nothing where there is none.
    pub(crate) enforcer_cpu: Option<f64>,
    /// CPU seconds of everything: client, server, enforcer and the kernel's work for them.
    pub(crate) system_cpu: f64,
    /// Resident memory of the process that enforces, at the end of the run.
    pub(crate) enforcer_mib: Option<f64>,
}

impl Sample {
    /// Of requests that took so many microseconds each, in so many seconds altogether; `None` if there was none.
    pub(crate) fn of_latencies(mut latencies: Vec<f64>, seconds: f64) -> Option<Self> {
        latencies.sort_by(f64::total_cmp);
        let quantile = |hundredths: usize| latencies.get(latencies.len() * hundredths / 100).copied();
        Some(Self {
            amount: latencies.len() as f64,
            seconds,
            p50_us: Some(quantile(50)?),
            p99_us: quantile(99),
            ..Self::default()
        })
    }

    pub(crate) fn rate(&self) -> f64 {
        self.amount / self.seconds
    }
}
