//! What a phase cost: processor time and peak memory, of this process and of the broker's.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Starts at a phase's begin, read at its end.
pub struct Meter {
    started: Instant,
    own: Usage,
    broker: Option<(u32, Usage)>,
}

#[derive(Clone, Copy, Default)]
struct Usage {
    cpu: Duration,
}

/// What a phase cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Wall time.
    pub wall: Duration,
    /// User and system time of this process, all threads.
    pub cpu: Duration,
    /// User and system time of this process since it was started, all threads, ended ones too.
    pub process_cpu: Duration,
    /// Times that a thread of this process gave up its processor or lost it, since each of them was started.
    pub context_switches: u64,
    /// Peak resident memory of this process during the phase, in bytes.
    pub max_rss_bytes: u64,
    /// User and system time of the broker's process, where its id is known.
    pub broker_cpu: Option<Duration>,
    /// Peak resident memory of the broker's process so far, in bytes.
    pub broker_max_rss_bytes: Option<u64>,
}

impl Meter {
    /// Starts measuring; the kernel's high-water mark of resident memory starts anew.
    pub fn start(broker: Option<u32>) -> Self {
        // Not permitted everywhere; the mark then covers the process' whole life, which is never too low.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Self {
            broker: broker.and_then(|pid| Some((pid, usage(&pid.to_string())?))),
            own: usage("self").unwrap_or_default(),
            started: Instant::now(),
        }
    }

    /// What it cost until now.
    pub fn read(&self) -> Cost {
        let wall = self.started.elapsed();
        let process_cpu = usage("self").unwrap_or_default().cpu;
        let broker_cpu =
            self.broker.and_then(|(pid, before)| Some(usage(&pid.to_string())?.cpu.saturating_sub(before.cpu)));
        Cost {
            wall,
            cpu: process_cpu.saturating_sub(self.own.cpu),
            process_cpu,
            context_switches: context_switches(),
            max_rss_bytes: peak_rss("self").unwrap_or(0),
            broker_cpu,
            broker_max_rss_bytes: self.broker.and_then(|(pid, _)| peak_rss(&pid.to_string())),
        }
    }
}

/// User and system time of a process, all its threads, ended ones too.
fn usage(pid: &str) -> Option<Usage> {
    if pid == "self" {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        return Some(Usage { cpu: Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)) });
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces; fields are counted behind its closing parenthesis.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some(Usage { cpu: Duration::from_secs_f64((user + system) as f64 / ticks as f64) })
}

/// Of all threads that there are now.
fn context_switches() -> u64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok());
        counts.sum::<u64>()
    };
    threads.map(of).sum()
}

/// `VmHWM` of a process, in bytes.
fn peak_rss(pid: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}
