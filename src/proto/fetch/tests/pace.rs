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
    // Half of 128 KiB holds no batch of it: one is asked for.
    assert_eq!(back.fetch_offset, slow * 6_000);
    assert!((big(0).len()..129_900).contains(&(back.partition_max_bytes as usize)), "{}", back.partition_max_bytes);
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
    let each = batch(Codec::None, 100_000, 1_000, Stamp::NONE).len();
    for (waited, then) in [(false, 1 << 20), (true, 2 << 20), (true, 2 << 20)] {
        let answer: Vec<u8> =
            (0..95).flat_map(|nth| batch(Codec::None, base + nth * 1_000, 1_000, Stamp::NONE)).collect();
        base += 95_000;
        bed.answer(ONE, 5, vec![records(0, answer)]);
        bed.fetcher.taken(tp(0), 1, usize::MAX, waited);
        let asked = bed.fetch(ONE).topics[0].partitions[0].partition_max_bytes as usize;
        assert!((then - 2 * each..=then).contains(&asked), "{asked} of {then}");
    }
}

/// An answer of whole batches and, at its end, the beginning of one.
fn answer(sizes: &[i64], base: i64, cut: Option<(i64, usize)>) -> (Vec<u8>, i64) {
    let (mut bytes, mut at) = (Vec::new(), base);
    for count in sizes {
        bytes.extend(batch(Codec::None, at, *count, Stamp::NONE));
        at += count;
    }
    if let Some((count, have)) = cut {
        bytes.extend(&batch(Codec::None, at, count, Stamp::NONE)[..have]);
    }
    (bytes, at)
}

#[test]
fn r09_what_is_asked_for_ends_where_batches_end() {
    let mut bed = Bed::new(settings(|settings| settings.fetch_max_bytes = 8 << 20), &[1; 12]);
    (0..12).for_each(|partition| bed.assign(partition, 1, StartAt::Offset(0)));
    let size = |request: &FetchRequest, nth: usize| request.topics[0].partitions[nth].partition_max_bytes as usize;
    let first = bed.fetch(ONE);
    assert!((0..12).all(|nth| size(&first, nth) == 1 << 20), "nothing is known yet");
    // Batches of about 550 KB: one, and a part of the next.
    let (bytes, next) = answer(&[25_000], 0, Some((24_000, 50_000)));
    let (whole, cut) =
        (batch(Codec::None, 0, 25_000, Stamp::NONE).len(), batch(Codec::None, next, 24_000, Stamp::NONE).len());
    assert!((500_000..600_000).contains(&whole));
    let full =
        |partition, bytes: &Vec<u8>| PartitionData { high_watermark: 1 << 30, ..records(partition, bytes.clone()) };
    bed.answer(ONE, 5, (0..12).map(|partition| full(partition, &bytes)).collect());
    (0..12).for_each(|partition| bed.fetcher.taken(tp(partition), 1, usize::MAX, false));
    // What was cut off is asked for to the byte, and of another only its size: one for each of twelve.
    let second = bed.fetch(ONE);
    let exact = cut + 12;
    assert!((0..12).all(|nth| size(&second, nth) == exact), "{} of {exact}", size(&second, 0));
    let (bytes, next) = answer(&[24_000], next, None);
    bed.answer(ONE, 5, (0..12).map(|partition| full(partition, &bytes)).collect());
    (0..12).for_each(|partition| bed.fetcher.taken(tp(partition), 1, usize::MAX, false));
    // Where nothing was cut off, what lately was the largest is expected, and a little more.
    let third = bed.fetch(ONE);
    assert!((0..12).all(|nth| (whole - whole / 8..whole + whole / 30).contains(&size(&third, nth))));
    // A batch that is larger than expected, and so did not come though there was room: all is asked for.
    bed.answer(ONE, 5, (0..11).map(|partition| full(partition, &answer(&[24_000], next, None).0)).collect());
    (0..11).for_each(|partition| bed.fetcher.taken(tp(partition), 1, usize::MAX, false));
    let fourth = bed.fetch(ONE);
    let last = fourth.topics[0].partitions.iter().find(|part| part.partition == 11);
    assert_eq!(last.map(|part| part.partition_max_bytes), Some(1 << 20));
}

#[test]
fn r09_an_idle_partition_does_not_change_in_the_session_when_others_do() {
    let mut bed = Bed::new(settings(|_| {}), &[1; 3]);
    (0..3).for_each(|partition| bed.assign(partition, 1, StartAt::Offset(0)));
    bed.fetch(ONE);
    for round in 0..10 {
        let (bytes, _) = answer(&[10 + 3 * round], round * 100, None);
        bed.answer(ONE, 5, vec![records(0, bytes)]);
        bed.fetcher.taken(tp(0), 1, usize::MAX, true);
        bed.assign(0, 1, StartAt::Offset((round + 1) * 100));
        let changed = bed.fetch(ONE);
        assert_eq!(asked(&changed), [(0, (round + 1) * 100)]);
    }
}
