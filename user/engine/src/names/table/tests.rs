use super::{Lesson, NameLimits, Table};
use crate::names::NameRules;
use seventh_abi::mapped_v4;
use seventh_policy::Ipcache;
use seventh_policy::name_pattern::NamePattern;
use std::sync::Arc;

/// Memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Half of the names are asked for by a rule. Thirty endpoints, so that the bound over all of them counts, too.
#[test]
fn a_million_random_names_stay_within_bounds() {
    /// What the table takes at most, filled to its bounds by names of ordinary length; other tests' part included.
    const MEMORY_MAX: usize = 256 << 20;
    let before = resident();
    let limits = NameLimits::default();
    let mut table = Table::new(limits);
    let selector = NamePattern::pattern("*.example").unwrap();
    table.set_rules(NameRules::new(vec![selector], Arc::new(Ipcache::new()), []));
    for n in 0..1_000_000_u32 {
        let [_, b, c, d] = n.to_be_bytes();
        let domain = if n % 2 == 0 { "example" } else { "test" };
        let addresses = vec![(mapped_v4([10, b, c, d]), 3600)];
        let lesson = Lesson {
            names: vec![(format!("{:x}.{domain}.", n.wrapping_mul(0x9e37_79b1)), 3600)],
            addresses,
        };
        table.learn(1 + n % 30, &lesson, 0);
        if n % 512 == 0 {
            let due = table.due();
            table.written(&due.changes);
        }
    }
    let due = table.due();
    table.written(&due.changes);
    let grown = resident().saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{} MiB", grown >> 20);
    println!("{} MiB", grown >> 20);
    let pairs: usize = table.scopes.values().map(|scope| scope.pairs).sum();
    assert_eq!(pairs, table.pairs);
    assert!(pairs <= limits.addresses_max && pairs > limits.addresses_max / 2);
    assert!(table.scopes.values().all(|scope| scope.names.len() <= limits.names_max));
    let names: usize = table.scopes.values().map(|scope| scope.names.len()).sum();
    let listed: usize = table.scopes.values().map(|scope| scope.order.len()).sum();
    assert_eq!((listed, table.ends.len()), (names, names));
    let open: usize = table.scopes.values().map(|scope| scope.addresses.len()).sum();
    assert!(open <= pairs + super::LINGERING_MAX && table.waiting.len() <= open);
    table.expire(u64::MAX);
    table.collect(|_, _| false);
    let due = table.due();
    table.written(&due.changes);
    assert!(table.list().is_empty() && table.pairs == 0 && table.ends.is_empty());
    assert!(table.scopes.is_empty());
}

const SECOND: u64 = super::SECOND_NS;

/// A table whose names are open for just as long as answers say.
fn table(names_max: usize) -> Table {
    let limits = NameLimits {
        names_max,
        ttl_min_ns: 0,
        ..NameLimits::default()
    };
    Table::new(limits)
}

fn lesson(name: &str, ttl_s: u32) -> Lesson {
    Lesson {
        names: vec![(name.to_owned(), ttl_s)],
        addresses: vec![(mapped_v4([10, 0, 0, 1]), ttl_s)],
    }
}

fn ends(table: &Table) -> Vec<u64> {
    table.list().iter().map(|learned| learned.expires_ns).collect()
}

#[test]
fn an_answer_that_comes_again_within_the_second_is_open_to_its_own_end() {
    let mut table = table(10);
    assert_eq!(table.learn(1, &lesson("a.", 5), 0).len(), 1);
    let later = SECOND / 2;
    assert!(
        table.learn(1, &lesson("a.", 5), later).is_empty(),
        "nothing to write down"
    );
    assert_eq!(ends(&table), [5 * SECOND + later]);
    assert!(table.learn(1, &lesson("a.", 1), later).is_empty());
    assert_eq!(ends(&table), [5 * SECOND + later], "a shorter time takes nothing away");
    table.expire(5 * SECOND);
    assert_eq!(ends(&table), [5 * SECOND + later]);
    table.expire(5 * SECOND + later);
    assert!(ends(&table).is_empty() && table.ends.is_empty());
}

#[test]
fn a_name_that_is_asked_for_all_the_time_is_not_the_oldest() {
    let mut table = table(64);
    for n in 0..1000 {
        table.learn(1, &lesson(&format!("{n}."), 3600), 0);
        table.learn(1, &lesson("always.", 3600), 0);
    }
    assert!(table.list().iter().any(|learned| learned.name == "always."));
}

/// A table in which a rule asks for every name.
fn asked() -> Table {
    let mut table = table(100_000);
    let selector = NamePattern::pattern("*").unwrap();
    table.set_rules(NameRules::new(vec![selector], Arc::new(Ipcache::new()), []));
    table
}

/// What lingers, by scope.
fn lingering(table: &mut Table, scope: u32) -> usize {
    let due = table.due();
    table.written(&due.changes);
    let open = |learned: &&super::LearnedName| learned.lingers && learned.scope == scope;
    table.list().iter().filter(open).count()
}

#[test]
fn one_endpoint_that_floods_leaves_another_its_lingering() {
    let mut table = asked();
    for n in 0..super::LINGERING_MAX as u32 + 100 {
        let [_, b, c, d] = n.to_be_bytes();
        let flood = Lesson {
            names: vec![(format!("{n}."), 1)],
            addresses: vec![(mapped_v4([10, b, c, d]), 1)],
        };
        table.learn(1, &flood, 0);
    }
    table.expire(2 * SECOND);
    assert_eq!(lingering(&mut table, 1), super::LINGERING_MAX);
    table.learn(2, &lesson("a.", 1), 2 * SECOND);
    table.expire(4 * SECOND);
    assert_eq!(lingering(&mut table, 2), 1);
    assert_eq!(lingering(&mut table, 1), super::LINGERING_MAX - 1);
    assert_eq!(table.lingering(), super::LINGERING_MAX);
    // Who has most takes nobody else's place.
    table.learn(1, &lesson("b.", 1), 4 * SECOND);
    table.expire(6 * SECOND);
    assert_eq!((lingering(&mut table, 2), table.lingering()), (1, super::LINGERING_MAX));
}

#[test]
fn nothing_is_kept_of_an_endpoint_that_is_gone() {
    let mut table = asked();
    for scope in 1..100 {
        table.learn(scope, &lesson("a.", 60), 0);
        table.forget(|number, _| number == scope);
    }
    assert_eq!(lingering(&mut table, 1), 1);
    table.collect(|_, _| false);
    assert_eq!(lingering(&mut table, 1), 0);
    assert!(table.scopes.is_empty());
    // Nor of names that no rule asks for.
    let mut table = self::table(10);
    table.learn(1, &lesson("a.", 60), 0);
    table.forget(|_, _| true);
    assert!(table.scopes.is_empty());
}
