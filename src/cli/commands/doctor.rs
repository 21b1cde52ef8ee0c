//! `ottla doctor`: what this host gives the engine, what it should give, and what to do about the difference.

use rustix::process::{Resource, getrlimit};
use rustix::thread::CpuSet;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::{Output, mib};
use crate::config::{BackendSetting, Cores, Layers};
use crate::ring::{BackendChoice, BackendKind, probe};

/// One thing looked at.
struct Finding {
    check: &'static str,
    found: String,
    wanted: String,
    level: Level,
    advice: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Good,
    /// Works, slower or with a limit.
    Warn,
    /// What the configuration asks for cannot work.
    Bad,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// Locked memory that rings of all sizes fit into for a user without CAP_IPC_LOCK (spec/io.md §8).
const MEMLOCK_WANTED: u64 = 8 << 20;
/// Below this not even the smallest rings fit.
const MEMLOCK_LEAST: u64 = 64 << 10;
/// Open files: connections to every broker of a large cluster, and the host program's own.
const FILES_WANTED: u64 = 4_096;

pub fn run(layers: &Layers, output: &Output) -> Result<(), Failure> {
    let engine = layers.engine()?;
    let findings =
        [kernel(), io_backend(engine.backend), memlock(), open_files(), affinity(&engine.cores), quota(&engine.cores)];
    if output.json {
        let checks: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "found": finding.found,
                    "wanted": finding.wanted,
                    "state": finding.level.name(),
                    "advice": finding.advice,
                })
            })
            .collect();
        output.json(&json!({ "checks": checks }))?;
    } else {
        let rows = findings
            .iter()
            .map(|finding| {
                vec![
                    finding.check.to_owned(),
                    finding.level.name().to_owned(),
                    finding.found.clone(),
                    finding.wanted.clone(),
                    finding.advice.clone(),
                ]
            })
            .collect();
        output.table(&["check", "state", "found", "wanted", "what to do"], &[], rows)?;
    }
    match findings.iter().filter(|finding| finding.level == Level::Bad).count() {
        0 => Ok(()),
        bad => Err(Failure::Check(format!("{bad} of {} checks did not hold", findings.len()))),
    }
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let good = version >= (6, 1);
    Finding {
        check: "kernel",
        found: release,
        wanted: "6.1 or newer".into(),
        level: if good { Level::Good } else { Level::Warn },
        advice: if good {
            String::new()
        } else {
            "io_uring's receive rings need 6.0, deferred work 6.1: epoll is used".into()
        },
    }
}

fn io_backend(setting: BackendSetting) -> Finding {
    let choice = match setting {
        BackendSetting::Auto => BackendChoice::Auto,
        BackendSetting::IoUring => BackendChoice::IoUring,
        BackendSetting::Epoll => BackendChoice::Epoll,
    };
    let probe = probe(choice);
    let found = format!("{}: {}", probe.kind.name(), probe.reason);
    let wanted = match setting {
        BackendSetting::Auto => "io_uring".to_owned(),
        forced => format!("{} (io.backend)", if forced == BackendSetting::Epoll { "epoll" } else { "io_uring" }),
    };
    let (level, advice) = match (probe.kind, &probe.io_uring) {
        (BackendKind::IoUring, Err(_)) => {
            (Level::Bad, "allow io_uring (seccomp profile, kernel.io_uring_disabled=0), or set io.backend=auto")
        }
        (BackendKind::Epoll, Err(_)) if setting == BackendSetting::Auto => (
            Level::Warn,
            "epoll works as well; for io_uring allow it in the seccomp profile, set kernel.io_uring_disabled=0",
        ),
        _ => (Level::Good, ""),
    };
    Finding { check: "io backend", found, wanted, level, advice: advice.into() }
}

fn memlock() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let root = rustix::process::geteuid().is_root();
    let found = match limit {
        None => "unlimited".to_owned(),
        Some(bytes) if bytes < 1 << 20 => format!("{} KiB", bytes >> 10),
        Some(bytes) => mib(bytes),
    };
    let level = match limit {
        _ if root => Level::Good,
        Some(bytes) if bytes < MEMLOCK_WANTED => Level::Warn,
        _ => Level::Good,
    };
    let advice = match limit {
        _ if level == Level::Good => "",
        Some(bytes) if bytes < MEMLOCK_LEAST => {
            "rings may not fit: ulimit -l 8192, or LimitMEMLOCK=8M in the unit file"
        }
        _ => "smaller rings are used: ulimit -l 8192, or LimitMEMLOCK=8M in the unit file",
    };
    Finding {
        check: "locked memory",
        found: if root { format!("{found} (root: no limit)") } else { found },
        wanted: mib(MEMLOCK_WANTED),
        level,
        advice: advice.into(),
    }
}

fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile).current;
    let good = limit.is_none_or(|files| files >= FILES_WANTED);
    Finding {
        check: "open files",
        found: limit.map_or_else(|| "unlimited".to_owned(), |files| files.to_string()),
        wanted: FILES_WANTED.to_string(),
        level: if good { Level::Good } else { Level::Warn },
        advice: if good {
            String::new()
        } else {
            "enough for small clusters: ulimit -n 65536, or LimitNOFILE=65536".into()
        },
    }
}

fn shards_wanted(cores: &Cores, allowed: usize) -> usize {
    match cores {
        Cores::Count(count) => *count,
        Cores::Affinity => allowed.min(Cores::AFFINITY_MAX),
        Cores::Explicit(cpus) => cpus.len(),
    }
}

fn affinity(cores: &Cores) -> Finding {
    let set = match rustix::thread::sched_getaffinity(None) {
        Ok(set) => set,
        Err(error) => {
            return Finding {
                check: "processors",
                found: error.to_string(),
                wanted: "a readable affinity mask".into(),
                level: Level::Warn,
                advice: "shards run unpinned".into(),
            };
        }
    };
    let allowed = set.count() as usize;
    let shards = shards_wanted(cores, allowed);
    let missing: Vec<String> = match cores {
        Cores::Explicit(cpus) => {
            cpus.iter().filter(|cpu| **cpu >= CpuSet::MAX_CPU || !set.is_set(**cpu)).map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    };
    let (level, advice) = if !missing.is_empty() {
        (
            Level::Bad,
            format!("processors {} are not allowed to this process: change cpu.affinity or taskset", missing.join(",")),
        )
    } else if allowed == 1 {
        (
            Level::Warn,
            "application and shards share one processor: nothing spins; give two for more throughput".to_owned(),
        )
    } else if shards > allowed {
        (Level::Warn, format!("set shards to {allowed} or less"))
    } else {
        (Level::Good, String::new())
    };
    Finding {
        check: "processors",
        found: format!("{allowed} allowed"),
        wanted: format!("{shards} for shards, 1 for the application"),
        level,
        advice,
    }
}

fn quota(cores: &Cores) -> Finding {
    // The unified hierarchy's limit of this process' own group, as a container sees it.
    let text = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").unwrap_or_default();
    let mut parts = text.split_whitespace().map(str::parse::<f64>);
    let limit = match (parts.next(), parts.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0.0 => Some(quota / period),
        _ => None,
    };
    let shards = shards_wanted(cores, usize::MAX);
    let good = limit.is_none_or(|cpus| cpus.ceil() >= shards as f64);
    Finding {
        check: "cpu quota",
        found: limit.map_or_else(|| "none".to_owned(), |cpus| format!("{cpus:.2} processors")),
        wanted: format!("at least {shards}"),
        level: if good { Level::Good } else { Level::Warn },
        advice: if good {
            String::new()
        } else {
            "the container is throttled before its shards are busy: raise cpu.max or lower shards".into()
        },
    }
}
