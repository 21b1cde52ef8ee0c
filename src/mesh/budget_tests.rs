//! Budget: fairness, cancellation, deadlines, nothing lost.

use super::*;
use crate::base::rng::Rng;
use crate::base::time::SystemClock;
use std::time::Duration;

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn is_ready(take: &mut Take) -> bool {
    match take.poll_take(&mut context()) {
        Poll::Ready(result) => result.is_ok(),
        Poll::Pending => false,
    }
}

#[test]
fn d1_23_waiters_are_served_first_come_first_served_by_freed_bytes() {
    let budget = Budget::new(100);
    assert!(budget.try_take(100));
    let mut waits: Vec<_> = [50, 10, 10].map(|bytes| budget.take(bytes, Time::NEVER)).into();
    assert!(!waits.iter_mut().any(is_ready));
    budget.give_back(40);
    assert!(!budget.try_take(1), "nobody passes a waiter");
    assert!(!waits.iter_mut().any(is_ready), "the small ones do not pass the large one");
    budget.give_back(20);
    assert_eq!(waits.iter_mut().map(is_ready).collect::<Vec<_>>(), [true, true, false]);
    budget.give_back(10);
    assert!(is_ready(&mut waits[2]));
    assert!(!budget.is_pressed());
}

#[test]
fn d1_23_a_cancelled_waiter_leaves_no_trace() {
    let budget = Budget::new(100);
    assert!(budget.try_take(100));
    let mut large = budget.take(90, Time::NEVER);
    let mut small = budget.take(10, Time::NEVER);
    assert!(!is_ready(&mut large) && !is_ready(&mut small));
    budget.give_back(10);
    assert!(!is_ready(&mut small));
    drop(large);
    assert!(is_ready(&mut small), "cancelling the one in front frees the way");
    // Cancelled after it was served and before it looked.
    let mut served = budget.take(40, Time::NEVER);
    assert!(!is_ready(&mut served));
    budget.give_back(100);
    drop(served);
    assert_eq!((budget.free_bytes(), budget.waiters()), (100, 0));
}

#[test]
fn deadlines_are_carried_out_by_the_parked_thread_and_by_expire() {
    let budget = Budget::new(10);
    assert!(budget.try_take(10));
    let soon = SystemClock.now().mono + Duration::from_millis(5);
    assert_eq!(budget.take_by(5, soon, &SystemClock), Err(BudgetError::TimedOut));
    let mut take = budget.take(5, Time(1000));
    assert!(!is_ready(&mut take));
    assert_eq!(budget.expire(Time(999)), Time(1000));
    assert!(take.poll_take(&mut context()).is_pending());
    assert_eq!(budget.expire(Time(1000)), Time::NEVER);
    assert_eq!(take.poll_take(&mut context()), Poll::Ready(Err(BudgetError::TimedOut)));
    assert_eq!(budget.take_by(11, Time::NEVER, &SystemClock), Err(BudgetError::TooLarge));
    let mut take = budget.take(5, Time::NEVER);
    assert!(!is_ready(&mut take));
    budget.close();
    assert_eq!(take.poll_take(&mut context()), Poll::Ready(Err(BudgetError::Closed)));
    assert_eq!(budget.take_by(5, Time::NEVER, &SystemClock), Err(BudgetError::Closed));
}

#[test]
fn r08_idle_handles_give_their_grants_back_without_acting() {
    let budget = Budget::new(10 * GRANT_BYTES);
    let mut idle: Vec<_> = (0..10).map(|_| budget.credit()).collect();
    assert!(idle.iter_mut().all(|credit| credit.try_spend(100)));
    assert_eq!(budget.free_bytes(), 0);
    let mut busy = budget.credit();
    assert!(busy.try_spend(30_000), "unspent grants of idle handles suffice");
    budget.give_back(30_000 + 1_000);
    drop((idle, busy));
    assert_eq!(budget.free_bytes(), budget.capacity_bytes());
}

#[test]
fn r08_a_waiter_takes_back_grants_and_keeps_others_from_taking_new_ones() {
    let budget = Budget::new(2 * GRANT_BYTES);
    let (mut a, mut b) = (budget.credit(), budget.credit());
    assert!(a.try_spend(4_000) && b.try_spend(4_000));
    let mut wait = budget.take(1_000, Time::NEVER);
    assert!(!is_ready(&mut wait));
    assert!(!a.try_spend(50), "96 unspent bytes were taken back, and while one waits nobody else is given any");
    budget.give_back(4_000);
    assert!(is_ready(&mut wait));
    assert!(a.try_spend(50));
}

fn tp(partition: i32) -> Tp {
    Tp { topic: crate::base::ids::TopicIx(0), partition }
}

#[test]
fn r08_a_partition_holds_at_most_half_of_what_is_free_and_the_others_get_on() {
    let budget = Budget::new(1_200);
    let (dead, live) = (budget.share(tp(0)), budget.share(tp(1)));
    let mut held = 0;
    while is_ready(&mut budget.take_for(10, dead.clone(), Time::NEVER)) {
        held += 10;
    }
    assert_eq!((held, dead.held_bytes()), (610, 610), "half, and the one that made it more");
    // Its waiters queue; they press nobody and keep nobody else out.
    let mut waits: Vec<_> = (0..3).map(|_| budget.take_for(50, dead.clone(), Time::NEVER)).collect();
    assert!(!waits.iter_mut().any(is_ready));
    assert_eq!((budget.is_pressed(), budget.waiters()), (false, 3));
    let mut other = 0;
    while is_ready(&mut budget.take_for(10, live.clone(), Time::NEVER)) {
        other += 10;
    }
    assert_eq!(other, 300, "half of the rest");
    // n dead ones leave 1 / (n + 1): a third still gets something.
    assert!(is_ready(&mut budget.take_for(100, budget.share(tp(2)), Time::NEVER)));
    // What the live one gives back does not go to the dead one while that holds more than is free.
    live.release(300);
    budget.give_back(300);
    assert!(!waits.iter_mut().any(is_ready));
    // Its own waiters are served in order as its records end.
    dead.release(300);
    budget.give_back(300);
    assert_eq!(waits.iter_mut().map(is_ready).collect::<Vec<_>>(), [true, true, true]);
    assert_eq!(dead.held_bytes(), 310 + 150);
    assert_eq!(budget.waiters(), 0);
}

#[test]
fn r08_records_without_a_partition_hold_a_sixteenth_however_much_is_free() {
    let budget = Budget::new(32 << 20);
    let (unplaced, placed) = (budget.share(tp(-1)), budget.share(tp(0)));
    let mut held = 0;
    while is_ready(&mut budget.take_for(1_000, unplaced.clone(), Time::NEVER)) {
        held += 1_000;
    }
    assert_eq!(held, 2_098_000, "2 MiB, and the one that made it more");
    let mut wait = budget.take_for(1_000, unplaced.clone(), Time::NEVER);
    assert!(!is_ready(&mut wait));
    // They are placed: nothing became free, but who waits may go on.
    unplaced.release(held);
    placed.hold(held);
    budget.give_back(0);
    assert!(is_ready(&mut wait));
    // A small budget is not cut to pieces.
    assert_eq!(unplaced_bytes_max(1 << 20), 256 << 10);
}

#[test]
fn r08_a_cancelled_wait_leaves_the_share_as_it_was() {
    let budget = Budget::new(100);
    let share = budget.share(tp(0));
    assert!(is_ready(&mut budget.take_for(80, share.clone(), Time::NEVER)));
    let (mut first, mut second) =
        (budget.take_for(10, share.clone(), Time::NEVER), budget.take_for(10, share.clone(), Time::NEVER));
    assert!(!is_ready(&mut first) && !is_ready(&mut second));
    share.release(80);
    budget.give_back(80);
    // Both were served; one is dropped before it looks, the other after.
    assert_eq!(share.held_bytes(), 20);
    drop(first);
    assert!(is_ready(&mut second));
    assert_eq!((share.held_bytes(), budget.free_bytes()), (10, 90));
}

#[test]
fn r08_what_chunks_take_beyond_what_was_paid_is_counted() {
    let budget = Budget::new(10_000);
    assert!(budget.try_take(6_000));
    budget.adjust(-5_000);
    assert_eq!(budget.free_bytes(), 0);
    assert!(!budget.try_take(1));
    let mut wait = budget.take(500, Time::NEVER);
    assert!(!is_ready(&mut wait));
    budget.give_back(1_000);
    assert!(!is_ready(&mut wait), "exactly nothing is free");
    budget.adjust(5_000);
    assert!(is_ready(&mut wait));
    assert_eq!(budget.free_bytes(), 4_500);
}

#[test]
fn r08_threads_under_pressure_all_progress_and_all_comes_back() {
    let budget = Budget::new(20_000);
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let budget = budget.clone();
            std::thread::spawn(move || {
                let mut rng = Rng::new(seed);
                let mut credit = budget.credit();
                for _ in 0..5_000 {
                    let bytes = 1 + rng.below(9_000);
                    if !credit.try_spend(bytes) {
                        let deadline = SystemClock.now().mono + Duration::from_secs(20);
                        if rng.percent(10) {
                            // Asks once and gives up.
                            let _ = budget
                                .take(bytes, deadline)
                                .poll_take(&mut context())
                                .map(|taken| taken.map(|()| budget.give_back(bytes)));
                            continue;
                        }
                        assert_eq!(budget.take_by(bytes, deadline, &SystemClock), Ok(()), "starved");
                    }
                    budget.give_back(bytes);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((budget.free_bytes(), budget.waiters()), (20_000, 0));
}

#[test]
fn r08_shares_of_partitions_that_hold_nothing_are_forgotten() {
    let budget = Budget::new(1 << 20);
    let tp = |partition| Tp { topic: crate::base::ids::TopicIx(1), partition };
    let (kept, holds) = (budget.share(tp(-1)), budget.share(tp(-2)));
    holds.hold(100);
    drop(holds);
    // A hundred thousand partitions, each used for a while, ten at a time.
    let mut in_use = std::collections::VecDeque::new();
    for partition in 0..100_000 {
        let share = budget.share(tp(partition));
        share.hold(10);
        in_use.push_back(share);
        if in_use.len() > 10 {
            in_use.pop_front().unwrap().release(10);
        }
        assert!(budget.shares() <= 300, "{} are remembered", budget.shares());
    }
    // What is held, and what somebody keeps, is not forgotten.
    assert_eq!(budget.share(tp(-2)).held_bytes(), 100);
    kept.hold(5);
    assert_eq!(budget.share(tp(-1)).held_bytes(), 5);
}
