//! How many instructions a verifier walks through in each program, of the million after which it refuses: a change may come
//! near that unnoticed, and another kernel's verifier may count more than the one at hand.

use std::{collections::BTreeMap, fs};

use seventh_datapath::AttachMode;

use super::{Lab, isolated};

/// Has a table of what was counted on which kernel.
const PAGE: &str = include_str!("../../../../docs/kernels.md");
/// No program may need more on any kernel: half of what a verifier allows.
const VERIFIED_MAX: u32 = 500_000;

/// What was counted on kernels of this release, by program; none where that was not done.
fn recorded((major, minor): (u32, u32)) -> BTreeMap<&'static str, Option<u32>> {
    let cells = |line: &'static str| {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect::<Vec<_>>()
    };
    let mut lines = PAGE.lines().skip_while(|line| !line.starts_with("| program |"));
    let columns = cells(lines.next().expect("the page has a table of programs"));
    let release = format!("{major}.{minor}");
    let column = columns.iter().position(|column| *column == release);
    let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells);
    let count = |row: &[&str]| row[column?].replace(' ', "").parse().ok();
    rows.map(|row| (row[0], count(&row))).collect()
}

/// 6 and 12 of `6.12.41+deb13-cloud-amd64`.
pub(super) fn release_of_kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = text.split('.').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn no_program_comes_near_what_a_verifier_refuses() {
    isolated(|| {
        let release = release_of_kernel();
        let recorded = recorded(release);
        let lab = Lab::new(AttachMode::Auto, 1500, &[]);
        let programs = lab.datapath.programs().unwrap();
        assert!(programs.len() >= 6, "{programs:?}");
        // `./seventh-dev kernels` shows these lines.
        for program in &programs {
            let count = program.verified_instructions.map(|count| count.to_string());
            println!("verifier: {} {}", program.name, count.as_deref().unwrap_or("–"));
        }
        for program in programs {
            let name = program.name.as_str();
            let recorded = recorded.get(name);
            let recorded = recorded.unwrap_or_else(|| panic!("docs/kernels.md has no row for {name}"));
            let Some(count) = program.verified_instructions else {
                assert!(release < (5, 16), "{name}: this kernel should tell");
                continue;
            };
            assert!(count <= VERIFIED_MAX, "{name}: {count} instructions");
            if let Some(recorded) = *recorded {
                assert!(
                    count <= recorded + recorded / 4,
                    "{name}: {count} instructions, and docs/kernels.md says {recorded} of {release:?}; if the growth is worth \
                     it, `./seventh-dev kernels` counts anew"
                );
            }
        }
        lab.end();
    });
}
