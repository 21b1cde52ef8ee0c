//! What a producer simulation does besides the weather: scenes, their senders, and the oracle that judges them.
//!
//! Every value says where it belongs (`source:number:topic:partition asked for:length:xxx`), so the logs alone show records
//! that went astray, came twice, changed or swapped places.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use ottla::base::rng::Rng;
use ottla::config::{Acks, Compression, EngineSettings};
use ottla::producer::{DeliveryError, DeliveryResult, Lane, Losses, Producer, Record, RejectReason, Sent};
use ottla::testkit::broker::{Reaction, Rule, TopicSpec};
use ottla::testkit::clock::SimClock;
use ottla::wire::{ApiKey, ErrorCode};

use super::{Bed, SECOND, Tally};

/// Topics that are there all the time.
pub const TOPICS: &[(&str, i32)] = &[("orders", 6), ("prices", 1)];

/// What one seed plays. The names are what the table at the end counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Play {
    /// Explicit partitions, every outcome asked for.
    Plain,
    /// Keys and sticky partitions, topics that are created later or never, growing ones.
    Unplaced,
    /// 64 KiB of `buffer.memory`, waiting senders, cancelled ones.
    Tight,
    /// No idempotence: acks 0, 1 or all.
    Careless,
    /// Delivery timeouts shorter than the stalls.
    Hasty,
    /// A topic is deleted and made again, others are reported missing, partitions are added.
    Remade,
    /// The engine is closed in the middle.
    Closed,
    /// Two producers, handles that are dropped early.
    Crowd,
}

pub const PLAYS: [Play; 8] =
    [Play::Plain, Play::Unplaced, Play::Tight, Play::Careless, Play::Hasty, Play::Remade, Play::Closed, Play::Crowd];

/// One seed's settings.
#[derive(Clone, Debug)]
pub struct Scene {
    pub seed: u64,
    pub play: Play,
    pub idempotent: bool,
    pub acks: Acks,
    pub linger: Duration,
    pub delivery_timeout: Duration,
    pub max_block: Duration,
    pub compression: Compression,
    pub batch_size: usize,
    pub producers: usize,
    pub senders: usize,
    pub records: u32,
}

impl Scene {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5CE4E);
        let play = PLAYS[(seed % PLAYS.len() as u64) as usize];
        let careless = play == Play::Careless;
        let acks = if careless { [Acks::None, Acks::Leader, Acks::All][rng.below(3) as usize] } else { Acks::All };
        let crowd = play == Play::Crowd;
        Self {
            seed,
            play,
            idempotent: !careless,
            acks,
            linger: Duration::from_millis([0, 0, 5, 20][rng.below(4) as usize]),
            delivery_timeout: if play == Play::Hasty { SECOND } else { 120 * SECOND },
            max_block: if rng.percent(50) { 2 * SECOND } else { 60 * SECOND },
            compression: [Compression::None, Compression::Lz4][rng.below(2) as usize],
            batch_size: [1_000_000, 2_000][rng.below(2) as usize],
            producers: if crowd { 2 } else { 1 },
            senders: if crowd { 4 } else { 3 },
            records: 160,
        }
    }

    pub fn engine(&self) -> EngineSettings {
        let tight = self.play == Play::Tight;
        EngineSettings {
            request_timeout: 5 * SECOND,
            buffer_memory: if tight { 64 << 10 } else { 32 << 20 },
            // Growth is seen by age alone.
            metadata_max_age: 4 * SECOND,
            metadata_propagation_max: 6 * SECOND,
            ..EngineSettings::default()
        }
    }

    pub fn producer(&self, bed: &Bed) -> Producer {
        bed.engine
            .producer()
            .acks(self.acks)
            .idempotence(self.idempotent)
            .linger(self.linger)
            .compression(self.compression)
            .batch_size(self.batch_size)
            .delivery_timeout(self.delivery_timeout)
            .max_block(self.max_block)
            .build()
            .unwrap()
    }

    /// Topics and how many partitions may be asked for; 0: the partition is never asked for.
    fn topics(&self) -> &'static [(&'static str, i32)] {
        match self.play {
            Play::Unplaced => &[("orders", 0), ("later", 0), ("later", 3), ("never", 0), ("prices", 0)],
            Play::Remade => &[("orders", 6), ("orders", 0), ("fleeting", 2), ("fleeting", 0)],
            Play::Tight => &[("orders", 6), ("orders", 0), ("prices", 0)],
            Play::Crowd => &[("orders", 6), ("orders", 0), ("prices", 0), ("lonely", 2)],
            _ => &[("orders", 6), ("orders", 6), ("orders", 6), ("prices", 1)],
        }
    }
}

/// What a sender was told about one record.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// Its outcome.
    Ended(DeliveryResult),
    /// It was taken, and nobody asked for more.
    Taken,
    /// It was given back, or the sender gave up before it was taken.
    Refused,
}

/// A record as its sender remembers it.
#[derive(Debug)]
pub struct Told {
    pub topic: &'static str,
    pub asked: Option<i32>,
    pub value: String,
    pub answer: Answer,
}

/// All of one sender.
#[derive(Debug, Default)]
pub struct Report {
    pub told: Vec<Told>,
    /// Losses of a handle that only this sender used.
    pub losses: Option<Losses>,
    pub cancelled: u64,
}

/// A handle of either kind.
enum Handle {
    Own(Box<Lane>),
    Shared(Producer),
}

impl Handle {
    fn submit(&mut self, record: Record<'_>) -> Result<Sent, RejectReason> {
        match self {
            Self::Own(lane) => lane.submit(record).map_err(|rejected| rejected.reason),
            Self::Shared(producer) => producer.submit(record).map_err(|rejected| rejected.reason),
        }
    }

    fn send_with(
        &mut self,
        record: Record<'_>,
        callback: impl FnOnce(DeliveryResult) + Send + 'static,
    ) -> Result<(), RejectReason> {
        match self {
            Self::Own(lane) => lane.send_with(record, callback).map_err(|rejected| rejected.reason),
            Self::Shared(producer) => producer.send_with(record, callback).map_err(|rejected| rejected.reason),
        }
    }

    fn try_send(&mut self, record: Record<'_>) -> Result<(), RejectReason> {
        match self {
            Self::Own(lane) => lane.try_send(record).map_err(|rejected| rejected.reason),
            Self::Shared(producer) => producer.try_send(record).map_err(|rejected| rejected.reason),
        }
    }

    async fn send(&mut self, record: Record<'_>) -> Result<(), RejectReason> {
        match self {
            Self::Own(lane) => lane.send_async(record).await.map_err(|rejected| rejected.reason),
            Self::Shared(producer) => producer.send_async(record).await.map_err(|rejected| rejected.reason),
        }
    }

    fn poll(&mut self) -> usize {
        match self {
            Self::Own(lane) => lane.poll(),
            Self::Shared(producer) => producer.poll(),
        }
    }

    async fn flush(&mut self) -> Losses {
        match self {
            Self::Own(lane) => lane.flush_async().await.unwrap(),
            Self::Shared(producer) => producer.flush_async().await.unwrap(),
        }
    }
}

/// What comes first: the work's result, or nothing after `patience`. The loser is dropped.
pub async fn within<T>(clock: &SimClock, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut sleep) = (pin!(work), pin!(clock.sleep(patience)));
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}

type Callbacks = Arc<Mutex<Vec<(usize, DeliveryResult)>>>;

/// One sender: its records, in bursts and pauses, by every way that the scene allows.
pub async fn sender(producer: Producer, scene: Scene, source: usize, clock: SimClock) -> Report {
    let mut rng = Rng::new(scene.seed * 31 + source as u64);
    let mut report = Report::default();
    let own = scene.play == Play::Tight || rng.percent(60);
    let mut handle = if own { Handle::Own(Box::new(producer.lane())) } else { Handle::Shared(producer.clone()) };
    drop(producer);
    // Some go away with records under way; outcomes that were asked for come all the same.
    let leaves = scene.play == Play::Crowd && rng.percent(50);
    let mut answers: Vec<(usize, Sent)> = Vec::new();
    let callbacks = Callbacks::default();
    for number in 0..scene.records {
        let (topic, partitions) = scene.topics()[rng.below(scene.topics().len() as u64) as usize];
        let asked = (partitions > 0).then(|| rng.below(partitions.max(1) as u64) as i32);
        let padding = rng.below(if scene.play == Play::Tight { 2_500 } else { 400 }) as usize;
        let place = asked.map_or("any".to_owned(), |partition| partition.to_string());
        let value = format!("{source}:{number}:{topic}:{place}:{padding}:{}", "x".repeat(padding));
        let key = format!("key {}", rng.below(8));
        let mut record = Record::to(topic).value(&value);
        if rng.percent(60) {
            record = record.key(&key);
        }
        if let Some(partition) = asked {
            record = record.partition(partition);
        }
        let index = report.told.len();
        let answer = if scene.play == Play::Tight {
            tight(&mut handle, record, &clock, &mut rng, &mut report.cancelled).await
        } else if !leaves && rng.percent(25) {
            let heard = Arc::clone(&callbacks);
            let sent = handle.send_with(record, move |outcome| heard.lock().unwrap().push((index, outcome)));
            sent.map_or_else(|reason| refused(&reason), |()| Answer::Taken)
        } else {
            match handle.submit(record) {
                Ok(sent) => {
                    answers.push((index, sent));
                    Answer::Taken
                }
                Err(reason) => refused(&reason),
            }
        };
        report.told.push(Told { topic, asked, value, answer });
        if rng.percent(30) {
            clock.sleep(Duration::from_micros(rng.below(100_000))).await;
        }
        if rng.percent(5) {
            handle.poll();
        }
        if rng.percent(1) {
            let _ = handle.flush().await;
        }
    }
    if scene.play == Play::Tight {
        let index = report.told.len();
        // All memory comes back: nothing was kept by those who gave up (d1-23).
        let value = format!("{source}:{}:prices:any:16000:{}", index, "x".repeat(16_000));
        clock.sleep(70 * SECOND).await;
        let refusal = handle.send(Record::to("prices").value(&value)).await.err();
        assert_eq!(refusal, None, "seed {}: no room for 16 kB after everything ended", scene.seed);
        report.told.push(Told { topic: "prices", asked: None, value, answer: Answer::Taken });
    }
    let asked_for_callbacks = report.told.iter().filter(|told| told.answer == Answer::Taken).count() - answers.len();
    if leaves {
        drop(handle);
    } else {
        let losses = handle.flush().await;
        report.losses = own.then_some(losses);
        handle.poll();
        let heard = callbacks.lock().unwrap();
        if scene.play != Play::Tight {
            assert_eq!(heard.len(), asked_for_callbacks, "seed {}: callbacks after a flush", scene.seed);
        }
        for (index, outcome) in heard.iter() {
            assert_eq!(report.told[*index].answer, Answer::Taken, "seed {}: a second outcome", scene.seed);
            report.told[*index].answer = Answer::Ended(*outcome);
        }
    }
    for (index, sent) in answers {
        report.told[index].answer = Answer::Ended(sent.await);
    }
    report
}

fn refused(reason: &RejectReason) -> Answer {
    assert!(matches!(reason, RejectReason::Full | RejectReason::Timeout | RejectReason::Closed), "refused: {reason}");
    Answer::Refused
}

/// A send where memory is short: at once or not at all, patiently, or with a patience that ends early.
async fn tight(
    handle: &mut Handle,
    record: Record<'_>,
    clock: &SimClock,
    rng: &mut Rng,
    cancelled: &mut u64,
) -> Answer {
    let sent = match rng.below(3) {
        0 => handle.try_send(record),
        1 => handle.send(record).await,
        _ => {
            let patience = Duration::from_micros(rng.below(30_000));
            match within(clock, patience, handle.send(record)).await {
                Some(sent) => sent,
                None => {
                    *cancelled += 1;
                    return Answer::Refused;
                }
            }
        }
    };
    sent.map_or_else(|reason| refused(&reason), |()| Answer::Taken)
}

/// What happens to topics in this scene, beside the weather.
pub fn meddle(bed: &mut Bed, scene: &Scene) {
    let (broker, clock) = (bed.broker.clone(), bed.world.clock());
    let mut rng = Rng::new(scene.seed ^ 0x7091C5);
    match scene.play {
        Play::Unplaced => {
            bed.watch("later");
            bed.world.spawn_task("creator", async move {
                clock.sleep(Duration::from_millis(rng.below(7_000))).await;
                broker.with(|core| core.create_topic(&TopicSpec::new("later", 3).replication(3))).unwrap();
                clock.sleep(Duration::from_millis(rng.below(4_000))).await;
                broker.with(|core| core.cluster.grow_topic("later", 5, None));
                broker.with(|core| core.cluster.grow_topic("orders", 8, None));
            });
        }
        Play::Remade => {
            bed.watch("fleeting");
            broker.with(|core| core.create_topic(&TopicSpec::new("fleeting", 2).replication(3))).unwrap();
            bed.world.spawn_task("remaker", async move {
                for _ in 0..4 {
                    clock.sleep(Duration::from_millis(500 + rng.below(4_000))).await;
                    broker.with(|core| core.delete_topic("fleeting"));
                    clock.sleep(Duration::from_millis(rng.below(1_500))).await;
                    broker.with(|core| core.create_topic(&TopicSpec::new("fleeting", 2).replication(3))).unwrap();
                    let missing = Rule::new(Reaction::Error(ErrorCode::UnknownTopicOrPartition));
                    let node = rng.below(3) as i32;
                    broker.with(|core| {
                        core.faults.add(missing.api(ApiKey::Metadata).topic("orders").node(node).times(3))
                    });
                }
                broker.with(|core| core.cluster.grow_topic("orders", 8, None));
            });
        }
        Play::Crowd => {
            // One replica each: without its node a partition has no leader.
            bed.watch("lonely");
            broker.with(|core| core.create_topic(&TopicSpec::new("lonely", 2).replication(1))).unwrap();
            bed.world.spawn_task("darkness", async move {
                clock.sleep(Duration::from_millis(rng.below(3_000))).await;
                (0..3).for_each(|node| {
                    broker.stop_node(node);
                });
                clock.sleep(Duration::from_millis(300 + rng.below(3_000))).await;
                broker.start_node(rng.below(3) as i32);
                clock.sleep(Duration::from_millis(300 + rng.below(3_000))).await;
                (0..3).for_each(|node| {
                    broker.start_node(node);
                });
            });
        }
        Play::Plain => {
            // A broker that accepts and never shakes hands: its link is given up at the end of the set-up time.
            let silent = Rule::new(Reaction::BlackHole).api(ApiKey::ApiVersions).nth(4);
            broker.with(|core| core.faults.add(silent));
        }
        Play::Hasty => {
            // Who may not write idempotently is told so once; what waited for the id fails, later records ask anew.
            let refused = Rule::new(Reaction::Error(ErrorCode::ClusterAuthorizationFailed));
            broker.with(|core| core.faults.add(refused.api(ApiKey::InitProducerId).times(1)));
        }
        Play::Closed => {
            let engine = bed.engine.clone();
            bed.world.spawn_task("closer", async move {
                clock.sleep(Duration::from_millis(200 + rng.below(5_000))).await;
                let _ = engine.close_async(2 * SECOND).await;
            });
        }
        _ => {}
    }
}

/// The promises, from what senders were told and what the logs hold.
pub fn judge(bed: &Bed, scene: &Scene, reports: &[Report], all: &mut Tally) {
    let seed = scene.seed;
    let logs = bed.logs();
    let filler = "x".repeat(1 << 16);
    let mut places: BTreeMap<&str, Vec<(&str, i32, i64)>> = BTreeMap::new();
    for ((topic, partition), records) in &logs {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for (offset, value) in records {
            let parts: Vec<&str> = value.splitn(6, ':').collect();
            let [source, number, meant, asked, padding, rest] = parts[..] else {
                panic!("seed {seed}: {topic}-{partition}@{offset} holds {value:?}")
            };
            // Compared as a whole: this runs for every byte of every seed, unoptimised.
            let whole = padding.parse().is_ok_and(|len: usize| filler.get(..len) == Some(rest));
            assert!(whole, "seed {seed}: {topic}-{partition}@{offset} was changed: {value:?}");
            let at_home = meant == topic && (asked == "any" || asked.parse() == Ok(*partition));
            assert!(at_home, "seed {seed}: {topic}-{partition}@{offset} has a record for {meant}-{asked}");
            let number: u32 = number.parse().unwrap();
            if let Some(before) = last.insert(source, number)
                && scene.idempotent
            {
                assert!(
                    before < number,
                    "seed {seed}: {topic}-{partition}: {source}:{number} after {before}:\n{}",
                    bed.describe_log(topic, *partition)
                );
            }
            places.entry(value).or_default().push((topic, *partition, *offset));
        }
    }
    let count = |all: &mut Tally, what: &str| *all.entry(format!("outcome: {what}")).or_default() += 1;
    for report in reports {
        let mut written = 0;
        let mut taken = 0;
        for told in &report.told {
            let short = told.value.rsplit_once(':').map_or("", |(short, _)| short);
            let found = places.get(told.value.as_str()).map_or(&[][..], Vec::as_slice);
            // Deleted with its topic: the log cannot tell any more.
            let kept = told.topic != "fleeting";
            if scene.idempotent {
                assert!(found.len() <= 1, "seed {seed}: {short} is in the logs: {found:?}");
            }
            match &told.answer {
                Answer::Ended(Ok(delivered)) => {
                    count(all, "delivered");
                    if let Some(asked) = told.asked {
                        assert_eq!(delivered.partition, asked, "seed {seed}: {short}");
                    }
                    let there = found.iter().any(|(topic, partition, offset)| {
                        (*topic, *partition) == (told.topic, delivered.partition)
                            && delivered.offset.is_none_or(|said| said == *offset)
                    });
                    let sure = kept && scene.acks != Acks::None;
                    let log = || bed.describe_log(told.topic, delivered.partition);
                    assert!(
                        there || !sure,
                        "seed {seed}: {short} acknowledged at {delivered:?}, found: {found:?}\n{}",
                        log()
                    );
                }
                Answer::Ended(Err(DeliveryError::Failed(why))) => {
                    count(all, "failed");
                    assert!(found.is_empty(), "seed {seed}: {short} failed ({why:?}) and is there: {found:?}");
                }
                Answer::Ended(Err(DeliveryError::Unknown(_))) => count(all, "unknown"),
                Answer::Taken => {
                    taken += 1;
                    written += u64::from(!found.is_empty());
                }
                Answer::Refused => {
                    count(all, "refused");
                    assert!(found.is_empty(), "seed {seed}: {short} was not taken and is there: {found:?}");
                }
            }
        }
        if let (Some(losses), Play::Tight) = (report.losses, scene.play) {
            let most = taken - losses.failed;
            assert!(written <= most, "seed {seed}: {written} of {taken} written, {losses:?}");
            assert!(written + losses.unknown >= most, "seed {seed}: {written} of {taken} written, {losses:?}");
        }
        *all.entry("outcome: cancelled while waiting".to_owned()).or_default() += report.cancelled;
    }
    *all.entry(format!("play: {:?}", scene.play)).or_default() += 1;
}
