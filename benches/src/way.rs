//! What may stand between client and server.

use crate::load::Kind;

/// A way to enforce, or none. The order is that of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Nothing: the baseline.
    None,
    /// Seventh, ports only: no packet leaves the kernel.
    SeventhL4,
    /// Seventh with the twenty HTTP rules.
    SeventhHttp,
    /// Seventh with server names.
    SeventhTls,
    /// Seventh with names that may be resolved.
    SeventhDns,
    /// Seventh, with policies in audit that deny everything: nothing is refused, everything is reported.
    SeventhAudit,
    /// Envoy with one worker thread.
    Envoy1,
    /// Envoy with two.
    Envoy2,
    /// `HAProxy` with one thread.
    Haproxy,
    /// nginx as a proxy, with one worker.
    Nginx,
    /// dnsdist as a forwarder.
    Dnsdist,
}

impl Way {
    /// All of them.
    pub(crate) const ALL: &[Way] = &[
        Way::None,
        Way::SeventhL4,
        Way::SeventhHttp,
        Way::SeventhTls,
        Way::SeventhDns,
        Way::SeventhAudit,
        Way::Envoy1,
        Way::Envoy2,
        Way::Haproxy,
        Way::Nginx,
        Way::Dnsdist,
    ];

    /// As tables and plots name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::None => "no enforcement",
            Way::SeventhL4 => "Seventh, ports only",
            Way::SeventhHttp => "Seventh, HTTP rules",
            Way::SeventhTls => "Seventh, server names",
            Way::SeventhDns => "Seventh, DNS rules",
            Way::SeventhAudit => "Seventh, audit",
            Way::Envoy1 => "Envoy, 1 worker",
            Way::Envoy2 => "Envoy, 2 workers",
            Way::Haproxy => "HAProxy, 1 thread",
            Way::Nginx => "nginx, 1 worker",
            Way::Dnsdist => "dnsdist",
        }
    }

    /// Whether it enforces or reports anything on such traffic (or is the baseline), so that a measurement says something.
    pub(crate) fn handles(self, kind: Kind) -> bool {
        match self {
            Way::None | Way::SeventhAudit => true,
            Way::SeventhL4 | Way::SeventhHttp | Way::Nginx => kind == Kind::Http,
            Way::Envoy1 | Way::Envoy2 | Way::Haproxy => matches!(kind, Kind::Http | Kind::Tls),
            Way::SeventhTls => kind == Kind::Tls,
            Way::SeventhDns | Way::Dnsdist => kind == Kind::Dns,
        }
    }

    /// Whether it refuses anything at all.
    pub(crate) fn denies(self) -> bool {
        !matches!(self, Way::None | Way::SeventhAudit)
    }

    /// Whether it denies what no HTTP rule allows.
    pub(crate) fn judges_requests(self) -> bool {
        self.denies() && self.handles(Kind::Http) && self != Way::SeventhL4
    }
}
