//! What is run together: scenarios with the same peers and numbers of records. `run` makes one such plan of its words; the
//! published table is the list [`ALL`], so that nobody must remember how it was made.

use crate::fault::Fault;
use crate::peer::{self, Peer};
use crate::scenario::{self, Scenario};
use crate::{RunArgs, TableArgs};

/// Scenarios of the published table.
#[derive(Debug)]
pub struct Group {
    /// By which it is asked for.
    pub name: &'static str,
    scenarios: &'static [&'static str],
    /// Who runs in every round.
    peers: &'static [&'static str],
    /// Who runs in the first round only: for its ratio to franz-go.
    guests: &'static [&'static str],
    /// Records of a short run and a long one, before a scenario divides them.
    messages: [u64; 2],
    /// Most rounds, where not all that are asked for are worth their time.
    runs_max: u32,
    /// What a round takes on two quiet cores, in seconds.
    round_seconds: u32,
    /// What the guests take in all.
    guests_seconds: u32,
}

/// The numbers of records that the targets are of.
const FULL: [u64; 2] = [2_000_000, 12_000_000];
const ALL_ROUNDS: u32 = u32::MAX;
/// Building what is built already, one broker and its warm-up.
const CLUSTER_SECONDS: u32 = 20;

/// The fields that most groups share.
const GROUP: Group = Group {
    name: "pool",
    scenarios: &["telemetry-pool"],
    peers: &["ottla", "ottla-lib", "franz-go", "java", "floor"],
    guests: &[],
    messages: FULL,
    runs_max: ALL_ROUNDS,
    round_seconds: 105,
    guests_seconds: 0,
};

/// The published table: those of one broker first, a cluster of three behind them. Each scenario is in one group, because
/// ratios are of a round.
pub const ALL: &[Group] = &[
    GROUP,
    Group {
        name: "telemetry",
        scenarios: &["telemetry"],
        guests: &["librdkafka", "rust-rdkafka", "confluent-kafka-go", "rskafka", "krafka"],
        messages: [1_000_000, 6_000_000],
        round_seconds: 45,
        guests_seconds: 90,
        ..GROUP
    },
    Group {
        name: "epoll",
        scenarios: &["telemetry-epoll"],
        peers: &["ottla", "franz-go", "floor"],
        messages: [1_000_000, 6_000_000],
        round_seconds: 20,
        ..GROUP
    },
    Group {
        name: "partitions-12",
        scenarios: &["telemetry-12"],
        peers: &["ottla", "franz-go", "java", "librdkafka"],
        messages: [500_000, 3_000_000],
        round_seconds: 40,
        ..GROUP
    },
    Group {
        name: "partitions",
        scenarios: &["telemetry-200", "telemetry-1000"],
        // Not Java: it makes and clears a buffer of 1 MB for every batch, however small, and takes minutes.
        peers: &["ottla", "franz-go", "librdkafka"],
        messages: [500_000, 3_000_000],
        round_seconds: 50,
        ..GROUP
    },
    Group {
        name: "partitions-10",
        scenarios: &["telemetry-10"],
        peers: &["ottla", "franz-go"],
        messages: [500_000, 3_000_000],
        round_seconds: 14,
        ..GROUP
    },
    Group {
        name: "bytes",
        scenarios: &["r1k"],
        peers: &["ottla", "bare", "franz-go", "krafka", "librdkafka"],
        round_seconds: 35,
        ..GROUP
    },
    Group {
        name: "small",
        scenarios: &["r100"],
        peers: &["ottla", "bare", "franz-go", "krafka", "librdkafka"],
        messages: [500_000, 3_000_000],
        round_seconds: 32,
        ..GROUP
    },
    Group {
        name: "waited",
        scenarios: &["waited"],
        peers: &[
            "ottla",
            "bare",
            "franz-go",
            "java",
            "librdkafka",
            "rust-rdkafka",
            "confluent-kafka-go",
            "rskafka",
            "krafka",
        ],
        messages: [1_000_000, 6_000_000],
        round_seconds: 26,
        ..GROUP
    },
    Group {
        name: "paced",
        scenarios: &["paced"],
        peers: &["ottla", "franz-go", "java", "librdkafka", "krafka"],
        guests: &["rust-rdkafka", "confluent-kafka-go", "rskafka"],
        messages: [500_000, 6_000_000],
        runs_max: 3,
        round_seconds: 72,
        guests_seconds: 36,
    },
    Group {
        name: "linger-0",
        scenarios: &["linger-0"],
        peers: &["ottla", "franz-go", "java", "librdkafka", "krafka"],
        messages: [500_000, 3_000_000],
        round_seconds: 27,
        ..GROUP
    },
    Group {
        name: "rtt",
        scenarios: &["rtt-20-small", "rtt-20"],
        peers: &["ottla", "franz-go"],
        messages: [500_000, 3_000_000],
        round_seconds: 32,
        ..GROUP
    },
    Group {
        name: "places",
        scenarios: &["telemetry-shared", "telemetry-one-core"],
        peers: &["ottla", "franz-go"],
        messages: [500_000, 3_000_000],
        runs_max: 3,
        round_seconds: 36,
        ..GROUP
    },
    Group {
        name: "catch-up",
        scenarios: &["catch-up"],
        peers: &["ottla", "franz-go"],
        guests: &["librdkafka", "rust-rdkafka"],
        guests_seconds: 18,
        messages: [500_000, 3_000_000],
        runs_max: 3,
        round_seconds: 32,
    },
    Group {
        name: "mixed",
        scenarios: &["mixed"],
        peers: &["ottla-lib", "franz-go"],
        messages: [500_000, 3_000_000],
        runs_max: 3,
        round_seconds: 12,
        ..GROUP
    },
    Group {
        name: "idle",
        scenarios: &["idle-1000"],
        peers: &["ottla", "franz-go"],
        // Nothing but time passes, and that takes as long in every round.
        runs_max: 1,
        round_seconds: 98,
        ..GROUP
    },
    Group {
        name: "brokers-3",
        scenarios: &["brokers-3"],
        peers: &["ottla", "franz-go"],
        messages: [500_000, 3_000_000],
        runs_max: 3,
        round_seconds: 18,
        ..GROUP
    },
    Group {
        name: "klife",
        scenarios: &["klife-sync-16", "klife-sync-1"],
        peers: &["ottla-lib", "franz-go", "java", "rust-rdkafka"],
        messages: [500_000, 3_000_000],
        round_seconds: 30,
        ..GROUP
    },
    Group {
        name: "klife-async",
        scenarios: &["klife-async"],
        peers: &["ottla-lib", "franz-go", "java", "rust-rdkafka"],
        messages: [300_000, 1_200_000],
        round_seconds: 40,
        ..GROUP
    },
];

impl Group {
    /// For `list`.
    pub fn text(&self) -> String {
        let guests = if self.guests.is_empty() { String::new() } else { format!("; once {}", self.guests.join(",")) };
        let [short, long] = self.messages;
        let most = if self.runs_max == ALL_ROUNDS { String::new() } else { format!(", {} rounds", self.runs_max) };
        format!(
            "{}: {}{guests}; --messages {short},{long}{most}; {} s a round",
            self.scenarios.join(","),
            self.peers.join(","),
            self.round_seconds
        )
    }

    fn plan(&self, args: &TableArgs) -> Result<Plan, Fault> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let wanted = |names: &[&'static str]| {
            let mut names = owned(names);
            names.retain(|name| args.peers.is_empty() || args.peers.contains(name));
            peer::named(&names)
        };
        let divide = if args.quick { 100 } else { 1 };
        Ok(Plan {
            name: self.name,
            scenarios: scenario::named(&owned(self.scenarios))?,
            peers: wanted(self.peers)?,
            guests: wanted(self.guests)?,
            messages: self.messages.map(|count| count / divide).to_vec(),
            runs: if args.quick { 1 } else { args.common.runs.min(self.runs_max) },
            round_seconds: self.round_seconds,
            guests_seconds: self.guests_seconds,
        })
    }
}

/// What is run: scenarios × peers × rounds.
#[derive(Debug)]
pub struct Plan {
    /// Of the group; empty where it was asked for by scenario.
    pub name: &'static str,
    /// In this order in every round.
    pub scenarios: Vec<&'static Scenario>,
    /// In turn.
    pub peers: Vec<&'static Peer>,
    /// In the first round only, behind the others.
    pub guests: Vec<&'static Peer>,
    /// Records of a short run and a long one, or of a plain one.
    pub messages: Vec<u64>,
    /// Rounds.
    pub runs: u32,
    round_seconds: u32,
    guests_seconds: u32,
}

impl Plan {
    /// About how long it takes; 0 where nobody knows.
    pub fn seconds(&self) -> u32 {
        self.round_seconds * self.runs + if self.guests.is_empty() { 0 } else { self.guests_seconds }
    }

    /// Peers and guests.
    pub fn all_peers(&self) -> impl Iterator<Item = &'static Peer> + '_ {
        self.peers.iter().chain(&self.guests).copied()
    }
}

/// The plan of `run`.
pub fn asked(args: &RunArgs) -> Result<Plan, Fault> {
    Ok(Plan {
        name: "",
        scenarios: scenario::named(&args.scenario)?,
        peers: peer::named(&args.peers)?,
        guests: Vec::new(),
        messages: args.messages.clone(),
        runs: args.common.runs,
        round_seconds: 0,
        guests_seconds: 0,
    })
}

/// The plans of `table`.
pub fn planned(args: &TableArgs) -> Result<Vec<Plan>, Fault> {
    if let Some(unknown) = args.group.iter().find(|name| ALL.iter().all(|group| group.name != **name)) {
        let known: Vec<_> = ALL.iter().map(|group| group.name).collect();
        return Err(Fault::Usage(format!("no group {unknown}; there are {}", known.join(", "))));
    }
    peer::named(&args.peers)?;
    let wanted = |group: &&Group| args.group.is_empty() || args.group.iter().any(|name| name == group.name);
    let mut plans = ALL.iter().filter(wanted).map(|group| group.plan(args)).collect::<Result<Vec<_>, _>>()?;
    // Whoever only has nothing of a client's compares nobody.
    plans.retain(|plan| plan.peers.iter().any(|peer| peer.is_client()));
    if plans.is_empty() {
        return Err(Fault::Usage("none of these peers is in one of these groups".into()));
    }
    Ok(plans)
}

/// About how long all of it takes, in seconds.
pub fn seconds(plans: &[Plan]) -> u32 {
    let mut nodes: Vec<u32> = plans.iter().flat_map(|plan| &plan.scenarios).map(|scenario| scenario.nodes).collect();
    nodes.dedup();
    plans.iter().map(Plan::seconds).sum::<u32>() + nodes.len() as u32 * CLUSTER_SECONDS
}

/// What will be run and how long that takes, in words.
pub fn schedule(plans: &[Plan]) -> String {
    let mut text = format!("bench-harness: {} groups, about {} minutes\n", plans.len(), seconds(plans).div_ceil(60));
    for plan in plans {
        let scenarios: Vec<_> = plan.scenarios.iter().map(|scenario| scenario.name).collect();
        let peers: Vec<_> = plan.peers.iter().map(|peer| peer.name).collect();
        let guests: Vec<_> = plan.guests.iter().map(|peer| peer.name).collect();
        let guests = if guests.is_empty() { String::new() } else { format!("; once {}", guests.join(",")) };
        text += &format!(
            "  {:14} {:4.1} min: {}: {}{guests}; {} rounds\n",
            plan.name,
            f64::from(plan.seconds()) / 60.0,
            scenarios.join(","),
            peers.join(","),
            plan.runs
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cli, Command};
    use clap::Parser;

    fn plans(words: &str) -> Result<Vec<Plan>, Fault> {
        let cli = Cli::try_parse_from(format!("bench-harness table {words}").split_whitespace()).unwrap();
        let Command::Table(args) = cli.command else { panic!("{words}") };
        planned(&args)
    }

    #[test]
    fn the_published_table_takes_five_rounds_in_less_than_an_hour() {
        let plans = plans("").unwrap();
        assert_eq!(plans.len(), ALL.len());
        let minutes = seconds(&plans).div_ceil(60);
        assert!((30..=55).contains(&minutes), "{minutes}");
        assert!(schedule(&plans).contains(&format!("{} groups, about {minutes} minutes", ALL.len())));
        assert_eq!(plans[0].messages, FULL, "the targets are of these");
        assert_eq!(plans[0].runs, 5);
    }

    #[test]
    fn every_scenario_is_in_one_group_with_somebody_of_ours_and_the_one_all_are_compared_with() {
        let plans = plans("").unwrap();
        let mut names: Vec<_> = plans.iter().flat_map(|plan| &plan.scenarios).map(|one| one.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for plan in &plans {
            assert!(
                plan.peers.iter().any(|peer| peer.is_ours())
                    && plan.peers.iter().any(|peer| peer.name == peer::REFERENCE)
            );
            for scenario in &plan.scenarios {
                for peer in plan.all_peers() {
                    assert_eq!(peer.why_not(scenario), None, "{} {}", scenario.name, peer.name);
                }
            }
            // A client of its own, not one of the guests twice.
            assert!(plan.guests.iter().all(|guest| !plan.peers.contains(guest)));
        }
        // The broker of one node ends before three start, and does not come again.
        let mut nodes: Vec<_> = plans.iter().flat_map(|plan| &plan.scenarios).map(|one| one.nodes).collect();
        nodes.dedup();
        assert_eq!(nodes, [1, 3]);
    }

    #[test]
    fn a_quick_table_is_one_round_of_few_records_by_whoever_is_wanted() {
        let quick = plans("--quick --group pool,waited --peers ottla,bare").unwrap();
        let said: Vec<_> = quick.iter().map(|plan| (plan.name, plan.runs, plan.messages.clone())).collect();
        assert_eq!(said, [("pool", 1, vec![20_000, 120_000]), ("waited", 1, vec![10_000, 60_000])]);
        let peers = |plan: &Plan| plan.all_peers().map(|peer| peer.name).collect::<Vec<_>>();
        assert_eq!((peers(&quick[0]), peers(&quick[1])), (vec!["ottla"], vec!["ottla", "bare"]));
        for (words, hint) in
            [("--group pole", "there are pool"), ("--peers kafkajs", "no peer"), ("--peers floor", "none of these")]
        {
            assert!(matches!(plans(words), Err(Fault::Usage(text)) if text.contains(hint)), "{words}");
        }
    }
}
