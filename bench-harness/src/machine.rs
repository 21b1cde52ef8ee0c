//! The machine's facts for the report, and where processes run.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use crate::fault::Fault;

/// The cores for clients and for the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Every peer's program.
    pub client: usize,
    /// The broker.
    pub broker: usize,
}

/// The first and the last core that this process may use; `None` without two of them.
pub fn cores() -> Result<Option<Cores>, Fault> {
    let allowed = sched_getaffinity(None).map_err(Fault::failed("which cores may be used"))?;
    let mut ids = (0..CpuSet::MAX_CPU).filter(|id| allowed.is_set(*id));
    let first = ids.next();
    Ok(first.zip(ids.next_back()).map(|(broker, client)| Cores { client, broker }))
}

/// Starts a program on one core, or wherever the kernel likes.
pub fn spawn_on(core: Option<usize>, command: &mut Command) -> Result<Child, Fault> {
    let what = || format!("{}", command.get_program().display());
    let (name, spawned) = match core {
        None => (what(), command.spawn()),
        Some(core) => {
            // A child starts with its parent's mask, so no program is needed that sets it.
            let before = sched_getaffinity(None).map_err(Fault::failed("pinning"))?;
            let mut one = CpuSet::new();
            one.set(core);
            sched_setaffinity(None, &one)
                .map_err(Fault::failed(format!("pinning to core {core}; --no-pin to go without")))?;
            let spawned = (what(), command.spawn());
            sched_setaffinity(None, &before).map_err(Fault::failed("unpinning"))?;
            spawned
        }
    };
    spawned.map_err(Fault::failed(format!("cannot start {name}")))
}

/// Moves a running process, all its threads, to one core, or to all that we may use.
pub fn move_to(core: Option<usize>, pid: u32) -> Result<(), Fault> {
    let what = || format!("moving process {pid} to another core");
    let mut set = sched_getaffinity(None).map_err(Fault::failed(what()))?;
    if let Some(core) = core {
        set = CpuSet::new();
        set.set(core);
    }
    for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(Fault::failed(what()))? {
        let id = thread.ok().and_then(|thread| thread.file_name().to_str()?.parse().ok());
        // A thread that ended meanwhile needs no core; one that started meanwhile is where its parent was.
        if let Some(id) = id.and_then(Pid::from_raw) {
            let _ = sched_setaffinity(Some(id), &set);
        }
    }
    Ok(())
}

/// User and system time of a running process, all its threads; `None` when there is none.
pub fn cpu_of(pid: u32) -> Option<Duration> {
    let counted = cpu_parts_of(pid).map(|[user, system]| user + system)?;
    // That is in hundredths of a second. What the scheduler has of each thread is exact, but lacks threads that ended.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| {
        fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    let scheduled = threads.filter_map(of).map(Duration::from_nanos).sum();
    Some(counted.max(scheduled))
}

/// The same, user and system time apart; also of a process that ended and was not waited for.
pub fn cpu_parts_of(pid: u32) -> Option<[Duration; 2]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces; fields are counted behind its closing parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = [fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?];
    let seconds = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64;
    Some(ticks.map(|ticks| Duration::from_secs_f64(seconds(ticks))))
}

/// Processes that are running or want to, averaged over a minute. A busy machine makes wall time worthless.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// What kind of machine this is.
pub fn facts() -> Value {
    let first = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "processor": first("/proc/cpuinfo", "model name"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": first("/proc/meminfo", "MemTotal"),
        "kernel": kernel.trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_runs_on_the_core_it_was_given_and_we_stay_where_we_were() {
        let before = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).rfind(|id| before.is_set(*id)).unwrap();
        let mut command = Command::new("grep");
        command.args(["Cpus_allowed_list", "/proc/self/status"]).stdout(std::process::Stdio::piped());
        let said = spawn_on(Some(core), &mut command).unwrap().wait_with_output().unwrap().stdout;
        assert_eq!(String::from_utf8(said).unwrap().split_whitespace().nth(1), Some(core.to_string().as_str()));
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn a_running_process_moves() {
        let here = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|id| here.is_set(*id)).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let allowed = |id| sched_getaffinity(Pid::from_raw(id as i32)).unwrap();
        move_to(Some(core), child.id()).unwrap();
        assert_eq!((allowed(child.id()).count(), allowed(child.id()).is_set(core)), (1, true));
        move_to(None, child.id()).unwrap();
        assert_eq!(allowed(child.id()), here);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(move_to(None, child.id()).is_err());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let fault = spawn_on(None, &mut Command::new("no-such-program-here")).unwrap_err();
        assert!(fault.text().contains("cannot start no-such-program-here"), "{fault:?}");
    }

    #[test]
    fn own_cpu_time_is_read() {
        assert!(cpu_of(std::process::id()).is_some());
    }
}
