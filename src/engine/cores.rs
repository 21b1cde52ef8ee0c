//! Which CPUs shards run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::{Cores, SettingError};

/// How many shards run, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuPlan {
    /// One entry per shard: the CPU it is pinned to, or none.
    pub shards: Vec<Option<usize>>,
    /// CPUs that this process can use at a time, by affinity and by its cgroup's quota.
    pub usable: usize,
}

impl CpuPlan {
    /// From a setting and what the system allows.
    pub fn new(cores: &Cores) -> Result<Self, SettingError> {
        let mask = affinity();
        let read = |path: &str| std::fs::read_to_string(path).ok();
        Self::with(cores, &mask, cgroup_quota(read))
    }

    /// From a setting, the CPUs of the affinity mask, and the cgroup's quota in whole CPUs.
    fn with(cores: &Cores, mask: &[usize], quota: Option<usize>) -> Result<Self, SettingError> {
        let usable = mask.len().max(1).min(quota.unwrap_or(usize::MAX)).max(1);
        let shards = match cores {
            Cores::Count(count) => vec![None; *count],
            Cores::Affinity if mask.is_empty() => vec![None],
            Cores::Affinity => {
                let count = usable.min(Cores::AFFINITY_MAX);
                mask.iter().take(count).map(|cpu| Some(*cpu)).collect()
            }
            Cores::Explicit(cpus) => {
                if let Some(cpu) = cpus.iter().find(|cpu| !mask.contains(cpu)) {
                    return Err(SettingError {
                        key: "cores",
                        reason: format!("CPU {cpu} is not among those this process may use: {mask:?}"),
                    });
                }
                cpus.iter().map(|cpu| Some(*cpu)).collect()
            }
        };
        Ok(Self { shards, usable })
    }

    /// Everything shares one CPU: nobody may spin (design §3.12).
    pub fn is_single_cpu(&self) -> bool {
        self.usable == 1
    }
}

/// The CPUs this process may run on, ascending; empty when the system does not say.
fn affinity() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

/// The smallest `cpu.max` of this process' cgroup (v2) and of those around it: inside a container the mount's root, outside
/// of one a path below it.
fn cgroup_quota(read: impl Fn(&str) -> Option<String>) -> Option<usize> {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let mut path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().trim_end_matches('/');
    let mut least: Option<usize> = None;
    loop {
        if let Some(cpus) = read(&format!("/sys/fs/cgroup{path}/cpu.max")).and_then(|text| quota(&text)) {
            least = Some(least.map_or(cpus, |known| known.min(cpus)));
        }
        match path.rfind('/') {
            Some(at) => path = &path[..at],
            None => return least,
        }
    }
}

/// `cpu.max` of cgroup v2, "quota period" or "max period", rounded up to whole CPUs.
fn quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok().map(|cpus| cpus.max(1))
}

/// Pins the calling thread. Where that fails the thread floats: slower, not wrong.
pub(super) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "cannot pin a shard to its CPU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r11_cores_follow_affinity_and_quota() {
        let plan = |cores: Cores, mask: &[usize], quota| CpuPlan::with(&cores, mask, quota).unwrap().shards;
        assert_eq!(plan(Cores::default(), &[0, 1], None), [None]);
        assert_eq!(plan(Cores::count(3), &[0], None), [None, None, None]);
        assert_eq!(plan(Cores::affinity(), &[2, 5, 7], None), [Some(2), Some(5), Some(7)]);
        assert_eq!(plan(Cores::affinity(), &[0, 1, 2, 3, 4, 5, 6, 7], None).len(), Cores::AFFINITY_MAX);
        assert_eq!(plan(Cores::affinity(), &[0, 1, 2, 3], Some(2)).len(), 2);
        assert_eq!(plan(Cores::explicit([5, 2]), &[2, 5], None), [Some(5), Some(2)]);
        assert_eq!(CpuPlan::with(&Cores::explicit([4]), &[2, 5], None).unwrap_err().key, "cores");
        assert!(CpuPlan::with(&Cores::default(), &[0, 1], Some(1)).unwrap().is_single_cpu());
        assert!(!CpuPlan::with(&Cores::default(), &[0, 1], None).unwrap().is_single_cpu());
    }

    #[test]
    fn r11_the_smallest_quota_of_the_cgroups_around_us_counts() {
        let system = |nested: bool| {
            move |path: &str| match (path, nested) {
                ("/proc/self/cgroup", true) => Some("1:name=x:/y\n0::/a/b\n".to_owned()),
                ("/proc/self/cgroup", false) => Some("0::/\n".to_owned()),
                ("/sys/fs/cgroup/a/b/cpu.max", _) => Some("max 100000\n".to_owned()),
                ("/sys/fs/cgroup/a/cpu.max", _) => Some("250000 100000\n".to_owned()),
                ("/sys/fs/cgroup/cpu.max", _) => Some("400000 100000\n".to_owned()),
                _ => None,
            }
        };
        assert_eq!((cgroup_quota(system(true)), cgroup_quota(system(false))), (Some(3), Some(4)));
        assert_eq!(cgroup_quota(|_| None), None);
    }

    #[test]
    fn quotas_are_rounded_up() {
        assert_eq!((quota("max 100000"), quota("150000 100000\n"), quota("50000 100000")), (None, Some(2), Some(1)));
        assert_eq!((quota(""), quota("7 0")), (None, Some(7)));
    }
}
