//! Making a ring: the best flags and sizes that this machine allows.

use std::fmt;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use io_uring::IoUring;
use rustix::io::Errno;

use super::super::RingSettings;
use super::buffers::Buffers;

/// Sizes to fall back to when locked memory is short.
const SMALL: (u32, u32) = (64, 512);
/// A ring that was just closed is taken off the user's locked memory a moment later: so long is waited for that.
const MEMORY_WAITS: [Duration; 4] =
    [Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(150)];

/// How completions are delivered, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TaskWork {
    /// `SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN` (Linux 6.1): only when we enter.
    Deferred,
    /// `COOP_TASKRUN` (Linux 5.19): at our next system call.
    Cooperative,
    /// By interrupting us.
    Plain,
}

/// What was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Delivery of completions.
    pub task_work: TaskWork,
    /// Entries of the submission queue.
    pub submission_entries: u32,
    /// Entries of the completion queue.
    pub completion_entries: u32,
    /// Receive buffers.
    pub buffer_count: u16,
    /// Size of each, in bytes.
    pub buffer_bytes: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = match self.task_work {
            TaskWork::Deferred => "SINGLE_ISSUER|DEFER_TASKRUN|COOP_TASKRUN",
            TaskWork::Cooperative => "COOP_TASKRUN",
            TaskWork::Plain => "no setup flags",
        };
        let (submission, completion) = (self.submission_entries, self.completion_entries);
        let (count, kib) = (self.buffer_count, self.buffer_bytes >> 10);
        write!(f, "{flags}, {submission}/{completion} entries, {count} buffers of {kib} KiB")
    }
}

/// A ring with its receive buffers, with completions delivered as `best` or as the kernel can.
pub fn build(settings: &RingSettings, best: TaskWork) -> io::Result<(IoUring, Buffers, Shape)> {
    let wanted = (settings.submission_entries, settings.completion_entries);
    let small = (wanted.0.min(SMALL.0), wanted.1.min(SMALL.1));
    let mut result = build_at(wanted, settings, best);
    if out_of_memory(&result) {
        result = build_at(small, settings, best);
    }
    for wait in MEMORY_WAITS {
        if !out_of_memory(&result) {
            break;
        }
        sleep(wait);
        result = build_at(small, settings, best);
    }
    result
}

fn out_of_memory<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if Errno::from_io_error(error) == Some(Errno::NOMEM))
}

fn build_at(
    (submission, completion): (u32, u32),
    settings: &RingSettings,
    best: TaskWork,
) -> io::Result<(IoUring, Buffers, Shape)> {
    let (ring, task_work) = build_ring(submission, completion, best)?;
    let parameters = ring.params();
    if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() || !parameters.is_feature_submit_stable() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is older than Linux 5.11"));
    }
    let shape = Shape {
        task_work,
        submission_entries: parameters.sq_entries(),
        completion_entries: parameters.cq_entries(),
        buffer_count: settings.buffer_count,
        buffer_bytes: settings.buffer_bytes,
    };
    let buffers = Buffers::register(&ring, settings.buffer_count, settings.buffer_bytes)?;
    Ok((ring, buffers, shape))
}

/// A kernel that does not know a flag answers `EINVAL`.
fn build_ring(submission: u32, completion: u32, best: TaskWork) -> io::Result<(IoUring, TaskWork)> {
    let mut last = io::Error::from(Errno::INVAL);
    let all = [TaskWork::Deferred, TaskWork::Cooperative, TaskWork::Plain];
    for task_work in all.into_iter().filter(|task_work| *task_work >= best) {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completion);
        match task_work {
            TaskWork::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
                builder.setup_submit_all();
            }
            TaskWork::Cooperative => {
                builder.setup_coop_taskrun().setup_submit_all();
            }
            TaskWork::Plain => {}
        }
        match builder.build(submission) {
            Ok(ring) => return Ok((ring, task_work)),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
