//! Exporters on a ring that a test writes, with files in a directory of its own.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use seventh_flows::{
    RingCapacity, RingWriter,
    json::{UnknownFields, from_json},
    pb::{
        flow::Flow,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{Exporters, Manager, spec};
use crate::{
    observer::{Node, Noted, Observer},
    reloaded::Reloaded,
};

/// Cilium's own test files; their names say what is wrong with them.
#[test]
fn files_of_others_are_taken_or_refused_as_their_names_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hubble/exporter-config");
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let read = spec::parse_file(&fs::read_to_string(&path).unwrap(), std::iter::empty());
        match name.split('-').next() {
            Some("valid") => assert_eq!(read.unwrap().len(), 3),
            Some("empty") => assert!(read.unwrap().is_empty()),
            Some("duplicate") => assert!(read.is_err(), "{name}"),
            _ => assert!(read.is_err() && name.starts_with("invalid"), "{name}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn a_wrong_value_names_its_field() {
    let error = |entry: &str| {
        let text = format!("flowLogs: [{{name: a, {entry}}}]");
        spec::parse_file(&text, std::iter::empty()).unwrap_err()
    };
    assert!(error("filePath: here").contains("flowLogs[0].filePath"));
    assert!(error("filePath: /a, fieldMask: [sauce]").contains("fieldMask"));
    assert!(error("filePath: /a, fieldAggregate: [source]").contains("aggregationInterval"));
    assert!(error("filePath: /a, aggregationInterval: 3s").contains("fieldAggregate"));
    assert!(error("filePath: /a, fieldAggregate: [source], aggregationInterval: soon").contains("aggregationInterval"));
    assert!(error("filePath: /a, end: 5m").contains("end"));
    assert!(error("filePath: /a, includeFilters: [{verdict: [MAYBE]}]").contains("includeFilters[0]"));
    assert!(error("filePath: /a, fileMaxBackups: 100000").contains("fileMaxBackups"));
    assert!(error("filepath: /a").contains("filepath"));
}

/// A ring, and exporters that a file tells of.
struct Lab {
    dir: tempfile::TempDir,
    observer: Arc<Observer>,
    writer: RingWriter<Noted>,
    exporters: Arc<Exporters>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Lab {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (observer, writer) = Observer::new(Node::new("", "node", Vec::new()), RingCapacity::new(1023).unwrap());
        let exporters = Arc::new(Exporters::default());
        let file = dir.path().join("flowlogs.yaml");
        let (stop, stopped) = watch::channel(false);
        let lab = Self {
            task: tokio::spawn(
                Manager {
                    exporters: Arc::clone(&exporters),
                    observer: Arc::clone(&observer),
                    fixed: Vec::new(),
                    file: Some(Reloaded::new(file)),
                }
                .run(stopped),
            ),
            dir,
            observer,
            writer,
            exporters,
            stop,
        };
        lab.configure(config);
        lab
    }

    /// `DIR` is the lab's directory.
    fn configure(&self, config: &str) {
        let config = config.replace("DIR", &self.dir.path().display().to_string());
        let new = self.dir.path().join(".new");
        fs::write(&new, config).unwrap();
        fs::rename(new, self.dir.path().join("flowlogs.yaml")).unwrap();
    }

    fn write(&mut self, pod: &str, padding: usize) {
        let text = format!(
            r#"{{"uuid":"{}","verdict":"FORWARDED","traffic_direction":"EGRESS","source":{{"namespace":"shop","pod_name":"{pod}"}},"destination":{{"pod_name":"back"}}}}"#,
            "u".repeat(padding)
        );
        let flow: Flow = from_json(&text, UnknownFields::Refuse).unwrap();
        let response = GetFlowsResponse {
            node_name: "node".into(),
            time: None,
            response_types: Some(ResponseTypes::Flow(flow)),
        };
        self.writer.push(response.into());
        self.observer.wake();
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Earlier files, the oldest first.
    fn backups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut backups: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        backups.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("a-20"));
        backups.sort();
        backups
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what}: it did not come to that");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn applied(&self, times: u64) {
        self.until("the file is in force", |lab| {
            let changes = lab.exporters.applied().map(|applied| applied.changes);
            changes.is_some_and(|changes| changes.iter().map(|(_, count)| count).sum::<u64>() >= times)
        })
        .await;
    }

    async fn end(self) -> tempfile::TempDir {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
        self.dir
    }
}

#[tokio::test]
async fn records_are_filtered_masked_and_grouped() {
    let config = "flowLogs:
- {name: a, filePath: DIR/a.log, fieldMask: [source.pod_name], includeFilters: [{source_pod: [shop/front]}]}
- {name: b, filePath: DIR/b.log, fieldAggregate: [destination.pod_name], aggregationInterval: 1h}";
    let mut lab = Lab::new(config);
    lab.applied(2).await;
    for pod in ["front", "other", "front"] {
        lab.write(pod, 0);
    }
    lab.until("two lines", |lab| lab.lines("a.log").len() == 2).await;
    let expected = r#"{"flow":{"source":{"pod_name":"front"}},"node_name":"node"}"#;
    assert_eq!(lab.lines("a.log"), [expected; 2]);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(lab.dir.path().join("a.log")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // The interval is long; the end tells what there is.
    assert!(lab.lines("b.log").is_empty());
    let dir = lab.end().await;
    let grouped = fs::read_to_string(dir.path().join("b.log")).unwrap();
    let expected =
        r#"{"flow":{"destination":{"pod_name":"back"},"aggregate":{"egress_flow_count":3}},"node_name":"node"}"#;
    assert_eq!(grouped.trim_end(), expected);
}

#[tokio::test]
async fn a_full_file_is_renamed_and_compressed_and_few_are_kept() {
    let mut lab =
        Lab::new("flowLogs: [{name: a, filePath: DIR/a.log, fileMaxSizeMb: 1, fileMaxBackups: 2, fileCompress: true}]");
    lab.applied(1).await;
    for number in 0..5 {
        // Two of them do not fit into a megabyte.
        lab.write(&format!("pod-{number}"), 600 << 10);
    }
    lab.until("the last record is there", |lab| {
        lab.lines("a.log").iter().any(|line| line.contains("pod-4")) && lab.backups().len() == 2
    })
    .await;
    for (backup, pod) in lab.backups().iter().zip(["pod-2", "pod-3"]) {
        let mut text = String::new();
        GzDecoder::new(fs::File::open(backup).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.contains(pod) && text.lines().count() == 1, "{}", backup.display());
    }
    lab.end().await;
}

#[tokio::test]
async fn a_change_is_taken_up_live_and_an_error_changes_nothing() {
    let mut lab = Lab::new("flowLogs: [{name: a, filePath: DIR/a.log}]");
    lab.applied(1).await;
    lab.write("first", 0);
    lab.until("a line", |lab| lab.lines("a.log").len() == 1).await;
    lab.configure("flowLogs: [{name: a, filePath: DIR/a.log}, {name: b, filePath: DIR/a.log}]");
    lab.until("the error is seen", |lab| lab.exporters.file_valid() == Some(false))
        .await;
    lab.write("second", 0);
    lab.until("a line", |lab| lab.lines("a.log").len() == 2).await;
    let past = "2020-01-01T00:00:00Z";
    lab.configure(&format!(
        "flowLogs: [{{name: a, filePath: DIR/a.log, end: '{past}'}}, {{name: c, filePath: DIR/c.log}}]"
    ));
    lab.until("the end of one", |lab| {
        let active: Vec<bool> = lab.exporters.statuses().iter().map(|status| status.active).collect();
        active == [false, true]
    })
    .await;
    lab.write("third", 0);
    lab.until("a line of the other", |lab| lab.lines("c.log").len() == 1)
        .await;
    lab.configure("");
    lab.until("no exporters", |lab| lab.exporters.statuses().is_empty())
        .await;
    assert_eq!(lab.lines("a.log").len(), 2);
    // They are counted when they have ended, which is after they are shown no more.
    lab.until("all changes are counted", |lab| {
        let changes = lab.exporters.applied().map(|applied| applied.changes);
        changes == Some([("add", 2), ("update", 1), ("remove", 2)])
    })
    .await;
    lab.end().await;
}

#[tokio::test]
async fn one_who_cannot_write_counts_it_and_holds_up_nobody() {
    let mut lab = Lab::new("flowLogs: [{name: a, filePath: DIR/no/a.log}, {name: b, filePath: DIR/b.log}]");
    lab.applied(2).await;
    for _ in 0..10 {
        lab.write("pod", 0);
    }
    lab.until("all lines of one, all errors of the other", |lab| {
        let statuses = lab.exporters.statuses();
        statuses[0].stats.errors() == 10 && statuses[1].stats.written() == 10
    })
    .await;
    fs::create_dir(lab.dir.path().join("no")).unwrap();
    lab.write("pod", 0);
    lab.until("it has recovered", |lab| lab.lines("no/a.log").len() == 1)
        .await;
    lab.end().await;
}

/// The ring holds 1023 records; more come before an exporter can look once.
#[tokio::test]
async fn what_was_overwritten_is_counted_exactly() {
    let mut lab = Lab::new("flowLogs: [{name: a, filePath: DIR/a.log}]");
    lab.applied(1).await;
    for _ in 0..5000 {
        lab.write("pod", 0);
    }
    lab.until("written and lost are everything", |lab| {
        let stats = Arc::clone(&lab.exporters.statuses()[0].stats);
        stats.written() + stats.lost() == 5000 && stats.lost() >= 5000 - 1023 - 512
    })
    .await;
    lab.end().await;
}
