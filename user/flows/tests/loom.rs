//! Every interleaving of the one writer of a ring of records with its readers.
//!
//! Run: `./seventh-dev models`
#![cfg(loom)]

use loom::thread;
use seventh_flows::{Cursor, Read, Ring, RingCapacity};

/// What a reader that begins before record `next` and looks so many times finds: each record is the next one, and what was lost
/// is told exactly.
fn follow(ring: &Ring<u64>, mut cursor: Cursor, mut next: u64, looks: usize) {
    for _ in 0..looks {
        match ring.read(&mut cursor) {
            Read::Record(record) => {
                assert_eq!(*record, next);
                next += 1;
            }
            Read::Lost(lost) => {
                assert!(lost > 0);
                next += lost;
            }
            Read::Nothing => assert!(next <= ring.written()),
        }
    }
}

fn ring() -> (seventh_flows::RingWriter<u64>, std::sync::Arc<Ring<u64>>) {
    Ring::create(RingCapacity::new(1).unwrap())
}

#[test]
fn a_reader_that_is_overtaken_knows_exactly_what_it_lost() {
    loom::model(|| {
        let (mut writer, ring) = ring();
        let begin = ring.oldest();
        let reader = thread::spawn(move || follow(&ring, begin, 0, 3));
        for record in 0..3 {
            writer.push(record);
        }
        reader.join().unwrap();
    });
}

#[test]
fn readers_do_not_take_records_from_each_other() {
    loom::model(|| {
        let (mut writer, ring) = ring();
        writer.push(0);
        let readers = [(); 2].map(|()| {
            let ring = std::sync::Arc::clone(&ring);
            thread::spawn(move || {
                let mut cursor = ring.oldest();
                assert!(matches!(ring.read(&mut cursor), Read::Record(record) if *record == 0));
            })
        });
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(writer.push(1), Some(0), "nobody holds it any more");
    });
}

#[test]
fn who_reads_backwards_finds_the_record_before_or_none() {
    loom::model(|| {
        let (mut writer, ring) = ring();
        writer.push(0);
        let reader = thread::spawn(move || {
            let mut cursor = ring.newest();
            let before = ring.written();
            if let Some(record) = ring.read_back(&mut cursor) {
                assert!(*record < ring.written() && before <= ring.written());
            }
        });
        writer.push(1);
        reader.join().unwrap();
    });
}
