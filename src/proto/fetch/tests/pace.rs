//! What a reader's pace and the memory at hand do to what is asked for.

use super::*;

#[test]
fn d2_50_no_long_poll_while_a_reader_has_yet_to_take_what_lies_there() {
    let mut bed = Bed::new(settings_small(), &[1, 1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.assign(1, 1, StartAt::Offset(0));
    let patient = bed.fetch(ONE).max_wait_ms;
    assert_eq!(patient, 500);
    let big = |base| batch(Codec::None, base, 6_000, Stamp::NONE);
    for round in 0..3 {
        bed.answer(ONE, 5, vec![records(0, big(round * 6_000))]);
        let request = bed.fetch(ONE);
        if !bed.fetcher.sides_asked(ONE).contains(&tp(0)) {
            assert!(request.max_wait_ms <= 10, "its reader may be done with it any moment: {}", request.max_wait_ms);
        }
    }
    assert!(!bed.fetcher.sides_asked(ONE).contains(&tp(0)));
    // Nothing comes and nobody reads: less and less is asked.
    let mut waited = 0;
    let mut requests = 0;
    while waited < 10_000 {
        bed.answer(ONE, 5, Vec::new());
        waited += bed.fetch(ONE).max_wait_ms;
        requests += 1;
    }
    assert!(requests < 40, "{requests} requests in ten seconds");
    bed.fetcher.taken(tp(0), 1, 100, false);
    bed.answer(ONE, 5, Vec::new());
    assert!(bed.fetch(ONE).max_wait_ms <= 10, "it is being read");
    bed.fetcher.taken(tp(0), 1, usize::MAX, false);
    bed.answer(ONE, 5, Vec::new());
    let request = bed.fetch(ONE);
    assert_eq!((asked(&request), request.max_wait_ms), (vec![(0, 18_000)], patient));
}

#[test]
fn d2_53_a_partition_nobody_takes_is_left_out_and_others_flow() {
    let mut bed = Bed::new(settings_small(), &[1, 1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.assign(1, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    let big = |base| batch(Codec::None, base, 6_000, Stamp::NONE);
    assert!(big(0).len() > 100 << 10);
    let (mut slow, mut fast, mut left) = (0, 0, 0);
    for round in 0..10 {
        let mut answer = vec![records(1, big(round * 6_000))];
        if !bed.fetcher.sides_asked(ONE).contains(&tp(0)) {
            left += 1;
        } else {
            answer.push(records(0, big(slow * 6_000)));
        }
        bed.answer(ONE, 5, answer);
        for data in bed.data() {
            if data.tp == tp(1) {
                fast += 1;
                bed.fetcher.taken(tp(1), 1, data.records.len(), false);
            } else {
                slow += 1;
            }
        }
        bed.fetch(ONE);
    }
    assert_eq!(fast, 10);
    assert!((1..=4).contains(&slow) && left >= 6, "slow {slow} left out {left}");
    // Taken at last: back in, at half.
    bed.fetcher.taken(tp(0), 1, usize::MAX, false);
    bed.answer(ONE, 5, Vec::new());
    let next = bed.fetch(ONE);
    let back = next.topics[0].partitions.iter().find(|partition| partition.partition == 0).unwrap();
    assert_eq!((back.fetch_offset, back.partition_max_bytes), (slow * 6_000, 64 << 10));
    // With nobody taking anything, nothing is asked for.
    let mut bed = Bed::new(settings_small(), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    bed.answer(ONE, 5, vec![records(0, big(0))]);
    assert!(bed.call(ONE).is_none());
}

fn settings_small() -> Arc<ConsumerSettings> {
    settings(|settings| {
        settings.max_partition_fetch_bytes = 128 << 10;
        settings.max_partition_fetch_bytes_grown = 128 << 10;
    })
}

#[test]
fn r09_a_request_asks_for_no_more_than_its_grant_and_waits_without_one() {
    let mut bed = Bed::new(settings(|_| {}), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    let refused = bed.fetcher.next_call(bed.now, ONE, &VERSIONS, |want| {
        assert_eq!((want.least, want.whole), (64 << 10, 0));
        None
    });
    assert!(refused.is_none());
    assert!(bed.call(ONE).is_none(), "asked again when memory comes back");
    bed.fetcher.on_memory();
    match bed.fetcher.next_call(bed.now, ONE, &VERSIONS, |_| Some(300_000)) {
        Some(FetchCall::Fetch { request, reserve, .. }) => {
            assert!((299_000..300_000).contains(&request.max_bytes), "{}", request.max_bytes);
            assert_eq!(reserve, 300_000);
        }
        other => panic!("{other:?}"),
    }
    // An answer that did not fit is asked for again, as a whole.
    bed.fetcher.on_no_room(ONE, 5 << 20);
    let again = bed.fetcher.next_call(bed.now, ONE, &VERSIONS, |want| {
        assert_eq!(want.whole, 5 << 20);
        Some(want.whole)
    });
    match again {
        Some(FetchCall::Fetch { request, .. }) => {
            assert_eq!((request.session_epoch, asked(&request)), (0, vec![(0, 0)]))
        }
        other => panic!("{other:?}"),
    }
    // A partition that fills its answers gets more, up to its limit, if its consumer waits for them.
    let mut base = 0;
    for (waited, then) in [(false, 1 << 20), (true, 2 << 20), (true, 4 << 20), (true, 4 << 20)] {
        let count = 40_000 * (1 + i64::from(then == 4 << 20) * 3);
        bed.answer(ONE, 5, vec![records(0, batch(Codec::None, base, count, Stamp::NONE))]);
        base += count;
        bed.fetcher.taken(tp(0), 1, usize::MAX, waited);
        assert_eq!(bed.fetch(ONE).topics[0].partitions[0].partition_max_bytes, then);
    }
}
