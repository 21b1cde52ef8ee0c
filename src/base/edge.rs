//! Which transitions of the state machines a simulated run went through: proof that simulations reach them all.
//!
//! A world runs on one thread, so the counts are that thread's. Counted only in tests (debug assertions and the feature
//! `testkit`); elsewhere [`edge`] is nothing.

#[cfg(all(feature = "testkit", debug_assertions))]
thread_local! {
    static COUNTS: std::cell::RefCell<std::collections::BTreeMap<&'static str, u64>> =
        const { std::cell::RefCell::new(std::collections::BTreeMap::new()) };
}

/// Notes one transition, named `machine: from -> to`. Per batch, connection or session, never per record.
#[inline]
pub fn edge(name: &'static str) {
    #[cfg(all(feature = "testkit", debug_assertions))]
    // A thread that is ending has nobody left to ask.
    let _ = COUNTS.try_with(|counts| *counts.borrow_mut().entry(name).or_insert(0) += 1);
    #[cfg(not(all(feature = "testkit", debug_assertions)))]
    let _ = name;
}

/// What this thread went through since the last call, by name; always empty where edges are not counted.
pub fn take_edges() -> std::collections::BTreeMap<&'static str, u64> {
    #[cfg(all(feature = "testkit", debug_assertions))]
    return COUNTS.with(std::cell::RefCell::take);
    #[cfg(not(all(feature = "testkit", debug_assertions)))]
    return std::collections::BTreeMap::new();
}

#[cfg(all(test, feature = "testkit", debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn edges_are_counted_per_thread_and_taken_once() {
        let _ = take_edges();
        edge("door: shut -> open");
        edge("door: shut -> open");
        std::thread::spawn(|| edge("door: open -> shut")).join().unwrap();
        assert_eq!(take_edges().into_iter().collect::<Vec<_>>(), [("door: shut -> open", 2)]);
        assert!(take_edges().is_empty());
    }
}
