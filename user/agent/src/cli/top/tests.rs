//! The picture of known records, on a terminal that is none.

use std::time::Duration;

use prost_types::Timestamp;
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers},
};
use seventh_flows::{
    event_type,
    pb::{
        flow::{
            CiliumEventType, Decision, Dns, Endpoint, Flow, Http, L7FlowType, Layer7, LostEvent, Policy,
            TrafficDirection, Verdict, layer7::Record,
        },
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};

use super::{
    board::{Board, Picture},
    screen::{Act, Screen, Sort, sort_denials},
    words,
};
use crate::api::v1::LatencyBucket;

const SPAN: Duration = Duration::from_secs(2);

fn end(pod: &str) -> Option<Endpoint> {
    Some(Endpoint {
        namespace: "shop".to_owned(),
        pod_name: pod.to_owned(),
        ..Endpoint::default()
    })
}

fn flow(source: &str, destination: &str, verdict: Verdict) -> Flow {
    Flow {
        source: end(source),
        destination: end(destination),
        ip: Some(seventh_flows::pb::flow::Ip::default()),
        verdict: verdict.into(),
        traffic_direction: TrafficDirection::Ingress.into(),
        event_type: Some(CiliumEventType {
            r#type: event_type::L7,
            sub_type: 0,
        }),
        ..Flow::default()
    }
}

fn with_l7(mut flow: Flow, kind: L7FlowType, latency_ns: u64, record: Record) -> Flow {
    flow.is_reply = Some(kind == L7FlowType::Response);
    flow.l7 = Some(Layer7 {
        r#type: kind.into(),
        latency_ns,
        record: Some(record),
    });
    flow
}

fn denied(source: &str, policy: &str, event: i32) -> Flow {
    Flow {
        event_type: Some(CiliumEventType {
            r#type: event,
            sub_type: 0,
        }),
        ingress_denied_by: vec![Policy {
            name: policy.to_owned(),
            namespace: "shop".to_owned(),
            ..Policy::default()
        }],
        decision: Some(Decision {
            reason: "http_policy_denied".to_owned(),
            ..Decision::default()
        }),
        ..flow(source, "api", Verdict::Dropped)
    }
}

fn response(flow: Flow) -> GetFlowsResponse {
    GetFlowsResponse {
        response_types: Some(ResponseTypes::Flow(flow)),
        ..GetFlowsResponse::default()
    }
}

/// What a busy shop's records come to.
fn board() -> Board {
    let mut board = Board::new().unwrap();
    let mut take = |flow| board.take(&response(flow));
    let http = || Record::Http(Http::default());
    for i in 1..=100_u64 {
        take(with_l7(
            flow("web", "api", Verdict::Forwarded),
            L7FlowType::Request,
            0,
            http(),
        ));
        let answer = flow("api", "web", Verdict::Forwarded);
        take(with_l7(answer, L7FlowType::Response, i * 1_000_000, http()));
    }
    take(with_l7(
        flow("web", "dns", Verdict::Forwarded),
        L7FlowType::Request,
        0,
        Record::Dns(Dns::default()),
    ));
    for _ in 0..4 {
        // As Hubble has it: both are of one packet.
        take(denied("job", "strict", event_type::POLICY_VERDICT));
        take(denied("job", "strict", event_type::DROP));
    }
    take(flow("guest\u{1b}[2J\u{202e}", "api", Verdict::Audit));
    board.take(&GetFlowsResponse {
        response_types: Some(ResponseTypes::LostEvents(LostEvent {
            num_events_lost: 7,
            ..LostEvent::default()
        })),
        ..GetFlowsResponse::default()
    });
    board
}

fn picture() -> Picture {
    let mut board = board();
    board.take_verdicts(vec![bucket(5_000, 0), bucket(10_000, 10), bucket(0, 0)]);
    board.take_verdicts(vec![bucket(5_000, 90), bucket(10_000, 20), bucket(0, 0)]);
    board.turn(SPAN)
}

fn bucket(up_to_ns: u64, count: u64) -> LatencyBucket {
    LatencyBucket { up_to_ns, count }
}

/// The screen's lines at this size.
fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells: Vec<&str> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
    cells.chunks(usize::from(width)).map(<[&str]>::concat).collect()
}

fn screen() -> Screen {
    let mut screen = Screen::new("unix:///run/seventh.sock".to_owned());
    screen.show(picture());
    screen
}

fn press(screen: &mut Screen, code: KeyCode) -> Act {
    screen.act(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

#[test]
fn records_are_counted_by_who_opened_and_denials_once() {
    let picture = picture();
    let counts = picture.counts;
    assert_eq!((counts.flows, counts.http, counts.dns), (210, 100, 1));
    assert_eq!((counts.denied, counts.audited, counts.lost), (4, 1, 7));
    let web = picture
        .talkers
        .iter()
        .find(|talker| talker.destination == "shop/api" && talker.source == "shop/web");
    let talk = web.unwrap().talk;
    assert_eq!((talk.flows, talk.requests, talk.denied), (200, 100, 0));
    assert_eq!(picture.talkers.len(), 4);
    let mut denials = picture.denials;
    sort_denials(&mut denials);
    assert_eq!(
        (denials[0].policy.as_str(), denials[0].reason.as_str(), denials[0].now),
        ("shop/strict", "http_policy_denied", 4)
    );
    let http = &picture.latencies[0];
    assert_eq!((http.what, http.count), ("http answers", 100));
    let near = |found: Option<u64>, ms: u64| found.is_some_and(|ns| ns.abs_diff(ms * 1_000_000) < ms * 20_000);
    assert!(near(http.p50, 50) && near(http.p99, 99), "{http:?}");
    let verdicts = picture.latencies.last().unwrap();
    assert_eq!((verdicts.what, verdicts.count), ("verdicts", 100));
    assert_eq!((verdicts.p50, verdicts.p99), (Some(5_000), Some(10_000)));
}

#[test]
fn each_span_of_time_is_counted_alone_and_denials_from_the_beginning() {
    let mut board = board();
    board.turn(SPAN);
    board.take(&response(denied("job", "strict", event_type::DROP)));
    let picture = board.turn(SPAN);
    assert_eq!((picture.counts.flows, picture.talkers.len(), picture.lost), (1, 1, 7));
    let strict = picture
        .denials
        .iter()
        .find(|denial| denial.policy == "shop/strict")
        .unwrap();
    assert_eq!((strict.now, strict.total), (1, 5));
    assert!(picture.latencies.is_empty());
}

#[test]
fn names_that_strangers_make_up_cost_a_bounded_place_and_are_counted() {
    let mut board = Board::new().unwrap();
    let long = "x".repeat(300);
    for i in 0..10_000 {
        board.take(&response(flow(&format!("{i}{long}"), "api", Verdict::Forwarded)));
        board.take(&response(denied("job", &format!("{i}"), event_type::DROP)));
    }
    let picture = board.turn(SPAN);
    let counted: u64 = picture.talkers.iter().map(|talker| talker.talk.flows).sum();
    assert_eq!(counted + picture.other_talkers, 20_000);
    assert!(picture.talkers.len() <= 2048 && picture.denials.len() <= 512);
    assert!(picture.talkers.iter().all(|talker| talker.source.len() < 200));
    let denied: u64 = picture.denials.iter().map(|denial| denial.total).sum();
    assert_eq!(denied + picture.other_denials, 10_000);
}

#[test]
fn what_is_on_the_screen_are_the_numbers_and_no_commands_of_strangers() {
    let lines = drawn(&screen(), 140, 24);
    let all = lines.join("\n");
    assert!(
        lines[1].contains("flows/s 105.0") && lines[1].contains("denied/s 2.0"),
        "{all}"
    );
    assert!(lines[1].contains("lost events 7"), "{all}");
    let row = |name: &str| {
        lines
            .iter()
            .find(|line| line.contains(name))
            .unwrap_or_else(|| panic!("{name}: {all}"))
    };
    assert!(
        row("shop/web -> shop/api").contains("100.0       50.0        0.0"),
        "{all}"
    );
    assert!(
        row("shop/strict").contains("http_policy_denied") && row("shop/strict").contains('4'),
        "{all}"
    );
    assert!(
        row("verdicts").contains("5.0µs") && row("verdicts").contains("10.0µs"),
        "{all}"
    );
    assert!(row("guest").contains("guest[^[2J\\u{202e}"), "{all}");
    assert!(
        all.chars()
            .all(|c| c == '\n' || !seventh_flows::safe_text::is_hostile(c))
    );
}

#[test]
fn it_is_drawn_in_whatever_room_there_is() {
    let screen = screen();
    for (width, height) in [(1, 1), (3, 2), (20, 5), (79, 24), (100, 10), (500, 200)] {
        let lines = drawn(&screen, width, height);
        assert_eq!(lines.len(), usize::from(height));
    }
    assert!(
        drawn(&screen, 79, 40).concat().contains("shop/strict"),
        "one above the other"
    );
}

#[test]
fn keys_sort_scroll_pause_and_quit() {
    let mut screen = screen();
    let first = |screen: &Screen| drawn(screen, 140, 24)[4].clone();
    assert!(first(&screen).contains("shop/web -> shop/api"));
    press(&mut screen, KeyCode::Tab);
    press(&mut screen, KeyCode::Tab);
    assert!(
        first(&screen).contains("shop/job -> shop/api"),
        "by denials: {}",
        first(&screen)
    );
    press(&mut screen, KeyCode::Down);
    assert!(first(&screen).contains("shop/guest"), "{}", first(&screen));
    for _ in 0..50 {
        press(&mut screen, KeyCode::Down);
    }
    press(&mut screen, KeyCode::Left);
    press(&mut screen, KeyCode::Left);
    for _ in 0..50 {
        press(&mut screen, KeyCode::Up);
    }
    assert!(first(&screen).contains("shop/web -> shop/api"));
    press(&mut screen, KeyCode::Char('p'));
    screen.show(Picture::default());
    assert!(first(&screen).contains("shop/web -> shop/api"), "paused");
    assert!(drawn(&screen, 140, 24)[23].contains("PAUSED"));
    press(&mut screen, KeyCode::Char('p'));
    screen.show(Picture::default());
    assert!(!first(&screen).contains("shop/web"));
    screen.set_trouble(Some("the server has ended".to_owned()));
    assert!(drawn(&screen, 140, 24)[0].contains("the server has ended"));
    assert_eq!(press(&mut screen, KeyCode::Char('x')), Act::Stay);
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Act::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.act(&Event::Key(interrupt)), Act::Quit);
}

#[test]
fn without_a_terminal_it_is_columns() {
    let mut picture = picture();
    Sort::default().apply(&mut picture.talkers);
    let text = words::plain(&picture);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("2.0 s: flows/s 105.0, http/s 50.0, dns/s 0.5"),
        "{text}"
    );
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>(),
        ["ENDPOINTS", "FLOWS/S", "REQS/S", "DENIED/S"]
    );
    assert!(lines[3].starts_with("shop/web -> shop/api"), "{text}");
    assert!(text.contains("http answers") && text.contains("shop/strict"), "{text}");
    assert!(
        text.chars()
            .all(|c| c == '\n' || !seventh_flows::safe_text::is_hostile(c))
    );
    let json = words::as_json(&picture);
    assert_eq!((&json["flows_per_s"], &json["lost"]), (&105.0.into(), &7.into()));
}

#[test]
fn a_file_spans_from_its_first_record_to_its_last() {
    let mut board = Board::new().unwrap();
    for seconds in [100, 103, 110] {
        board.take(&GetFlowsResponse {
            time: Some(Timestamp { seconds, nanos: 0 }),
            ..response(flow("web", "api", Verdict::Forwarded))
        });
    }
    assert_eq!(board.span_of_records(), Duration::from_secs(10));
    assert_eq!(Board::new().unwrap().span_of_records(), Duration::from_secs(1));
    let mut hostile = Board::new().unwrap();
    for seconds in [i64::MIN, i64::MAX] {
        hostile.take(&GetFlowsResponse {
            time: Some(Timestamp {
                seconds,
                nanos: i32::MAX,
            }),
            ..response(flow("web", "api", Verdict::Forwarded))
        });
    }
    hostile.turn(hostile.span_of_records());
}
