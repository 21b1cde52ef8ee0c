//! Programs while they run: stopped by their id when they do not end well, in time, or with us.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::fault::Fault;
use crate::machine::{cpu_of, cpu_parts_of, spawn_on};

/// A program whose standard output is gathered. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    told: Receiver<io::Result<String>>,
    what: String,
}

impl Running {
    /// Starts it on one core, or wherever the kernel likes.
    pub fn start(core: Option<usize>, command: &mut Command, what: &str) -> Result<Self, Fault> {
        let mut child = spawn_on(core, command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let (tell, told) = mpsc::channel();
        if let Some(mut stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut text = String::new();
                let read = stdout.read_to_string(&mut text);
                // Nobody listens any more when the time was up.
                let _ = tell.send(read.map(|_| text));
            });
        }
        Ok(Self { child, told, what: what.to_owned() })
    }

    /// Its CPU time so far; it must be running.
    pub fn cpu(&mut self) -> Result<Duration, Fault> {
        let ended = self.child.try_wait().map_err(Fault::failed(&self.what))?;
        match (ended, cpu_of(self.child.id())) {
            (None, Some(cpu)) => Ok(cpu),
            (status, _) => Err(Fault::Failed(format!("{} ended too early: {status:?}", self.what))),
        }
    }

    /// What it printed, and its CPU time in user space and in the kernel, in seconds; it must end well and within `limit`.
    pub fn output(mut self, limit: Duration) -> Result<(String, Option<[f64; 2]>), Fault> {
        let text = self.told.recv_timeout(limit);
        if text.is_err() {
            // It has its pipe open still, so it has not ended.
            let _ = self.child.kill();
        }
        let what = &self.what;
        // It is looked at between its end and its burial; the clock of either part ticks every few milliseconds.
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let ended = id.map(|id| waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        let cpu = ended.and_then(Result::ok).and_then(|_| cpu_parts_of(self.child.id()));
        let cpu = cpu.map(|parts| parts.map(|part| part.as_secs_f64()));
        let status = self.child.wait().map_err(Fault::failed(what))?;
        let text = text
            .map_err(|_| Fault::Failed(format!("{what} did not end in {} s (--timeout-seconds)", limit.as_secs())))?
            .map_err(Fault::failed(what))?;
        match status.code() {
            Some(0) => Ok((text, cpu)),
            Some(3) => Err(Fault::Check(format!("{what}: what was read is not what was sent: {}", text.trim()))),
            _ => Err(Fault::Failed(format!("{what} ended with {status}; what it said stands above"))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing to a child that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(None, &mut command, "peer x").unwrap()
    }

    #[test]
    fn a_peer_that_hangs_is_stopped_and_named() {
        let fault = shell("exec sleep 1000").output(Duration::from_millis(50)).unwrap_err();
        assert_eq!(fault, Fault::Failed("peer x did not end in 0 s (--timeout-seconds)".into()));
    }

    #[test]
    fn exit_codes_keep_their_meaning() {
        let run = |script: &str| shell(script).output(Duration::from_secs(60)).map(|(said, _)| said);
        assert_eq!(run("echo good"), Ok("good\n".into()));
        assert!(matches!(run("echo {}; exit 3"), Err(Fault::Check(text)) if text.contains("peer x")));
        assert!(matches!(run("exit 1"), Err(Fault::Failed(_))));
    }

    #[test]
    fn user_and_system_time_are_told_of_whoever_ended() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done";
        let (said, cpu) = shell(script).output(Duration::from_secs(60)).unwrap();
        let [user, system] = cpu.unwrap();
        assert!(said == "done\n" && user > 0.0 && system < user, "{user} {system}");
    }

    #[test]
    fn whoever_runs_has_a_cpu_time_and_ends_with_us() {
        let mut hangs = shell("exec sleep 1000");
        let id = hangs.child.id();
        assert!(hangs.cpu().is_ok());
        drop(hangs);
        assert_eq!(cpu_of(id), None);
        let mut ends = shell("exit 0");
        ends.child.wait().unwrap();
        assert!(matches!(ends.cpu(), Err(Fault::Failed(text)) if text.contains("ended too early")));
    }
}
