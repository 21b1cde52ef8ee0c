//! Settings of an engine: where the cluster is, how connections behave, which threads run.

use std::time::Duration;

use super::{SettingError, check_range};

/// Which I/O backend to use (`io.backend`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackendSetting {
    /// io_uring where the kernel and the container allow it, else epoll (one log line says which and why).
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// epoll.
    Epoll,
}

/// How many shards run and where (design §3.11).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cores {
    /// This many shards, not pinned. 1 by default.
    Count(usize),
    /// One shard per CPU of the process' affinity mask (at most [`Cores::AFFINITY_MAX`]), each pinned to its CPU.
    Affinity,
    /// One shard per listed CPU number, pinned.
    Explicit(Vec<usize>),
}

impl Cores {
    /// The most shards that [`Cores::Affinity`] starts.
    pub const AFFINITY_MAX: usize = 4;
    /// The most shards of one engine.
    pub const SHARDS_MAX: usize = 256;

    /// `count` shards, not pinned.
    pub fn count(count: usize) -> Self {
        Self::Count(count)
    }

    /// One pinned shard per CPU that the process may use, at most [`Cores::AFFINITY_MAX`].
    pub fn affinity() -> Self {
        Self::Affinity
    }

    /// One pinned shard per CPU number given.
    pub fn explicit(cpus: impl Into<Vec<usize>>) -> Self {
        Self::Explicit(cpus.into())
    }
}

impl Default for Cores {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// What all connections, the control thread and the shards of one engine share.
#[derive(Clone, PartialEq, Debug)]
pub struct EngineSettings {
    /// `bootstrap.servers`: `host:port` of brokers to find the cluster by, tried in order. At least one.
    pub bootstrap_servers: Vec<String>,
    /// `client.id`: sent with every request, shown in broker logs and quotas. Default `ottla`.
    pub client_id: String,
    /// `client.rack`: rack of this client, to fetch from a replica nearby. Default none.
    pub client_rack: Option<String>,
    /// How many shards run and where. Default one, not pinned.
    pub cores: Cores,
    /// `io.backend`. Default auto.
    pub backend: BackendSetting,

    /// `request.timeout.ms`: a request without an answer for so long ends its connection. Default 30 s.
    pub request_timeout: Duration,
    /// `socket.connection.setup.timeout.ms`: time for connect and handshake of one try. Default 10 s.
    pub connection_setup_timeout: Duration,
    /// `socket.connection.setup.timeout.max.ms`: that time doubles up to this while tries end by it (KIP-601). Default 30 s.
    pub connection_setup_timeout_max: Duration,
    /// `connections.max.idle.ms`: a connection unused for so long is closed. Default 9 min (brokers close at 10).
    pub connections_max_idle: Duration,
    /// `max.in.flight.requests.per.connection`: requests sent and not answered, 1..=1000. Default 5 (the most that idempotence
    /// allows per partition).
    pub max_in_flight_requests: usize,
    /// `reconnect.backoff.ms`: first wait before connecting again to a broker that failed. Default 50 ms.
    pub reconnect_backoff: Duration,
    /// `reconnect.backoff.max.ms`: the wait doubles up to this, with jitter. Default 1 s.
    pub reconnect_backoff_max: Duration,
    /// `retry.backoff.ms`: first wait before a failed request is tried again. Default 100 ms.
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms`: the wait doubles up to this, with full jitter. Default 1 s.
    pub retry_backoff_max: Duration,
    /// `default.api.timeout.ms`: whole time of an admin or control call with its retries. Default 60 s.
    pub default_api_timeout: Duration,
    /// `receive.message.max.bytes` (librdkafka's name): the largest answer accepted, in bytes. Default 100 MiB. A larger frame
    /// ends the connection before anything is allocated. A batch that is larger (KIP-74 has it sent whole) stops its partition
    /// with [`crate::batch::Refusal::TooLarge`]; the others of its broker go on.
    pub receive_message_max_bytes: usize,

    /// `metadata.max.age.ms`: metadata is fetched again at least this often. Default 5 min.
    pub metadata_max_age: Duration,
    /// `topic.metadata.propagation.max.ms` (librdkafka's name): how long a topic just created may be unknown to brokers before
    /// that counts as an error. Default 30 s.
    pub metadata_propagation_max: Duration,
    /// `metadata.recovery.rebootstrap.trigger.ms`: without any reachable broker for so long, start again from the bootstrap
    /// names with fresh DNS. Default 5 min (KIP-1102); all brokers having failed triggers it at once (KIP-899).
    pub metadata_rebootstrap_trigger: Duration,
    /// `allow.auto.create.topics`: whether asking for an unknown topic may create it, where brokers permit. Default true, as
    /// Java's producer does.
    pub allow_auto_create_topics: bool,

    /// `buffer.memory`: bytes of records waiting or in flight, all producers of the engine. Default 32 MiB. Beside it each
    /// lane (a handle's way to a shard) keeps chunks of 4 KiB at first and 512 KiB at most; spare ones go when somebody waits
    /// for memory. Records without a partition, because their topic's metadata is not there yet, hold a sixteenth of it at most
    /// (256 KiB if that is more): a sender that is faster than the first answer waits for it.
    pub buffer_memory: usize,
    /// `fetch.memory`: bytes of fetched data held for consumers, all of the engine. Default 64 MiB. What comes counts as it came,
    /// from the moment it is asked for; an eighth is set aside for batches that applications have decompressed and not dropped,
    /// and as those grow beyond it, less is fetched. They may reach this size, too; then
    /// [`crate::consumer::ConsumeError::TooMuchHeld`]. So an application that holds no more than an eighth at a time keeps the
    /// engine within `fetch.memory`, and none brings it beyond twice that, but for one batch per consumer (which may decompress
    /// to `fetch.memory` or 16 MiB, whichever is more) and one answer larger than all limits (KIP-74, at most
    /// `receive.message.max.bytes`).
    pub fetch_memory: usize,
    /// `socket.keepalive.enable`: `SO_KEEPALIVE`, so that a broker that vanished is noticed on an idle connection. Default on.
    pub keepalive: bool,
    /// `socket.nagle.disable`: `TCP_NODELAY`. Default on: requests are written whole, waiting for more only delays them.
    pub nodelay: bool,
    /// `socket.send.buffer.bytes`: `SO_SNDBUF`. Default: the system's.
    pub send_buffer_bytes: Option<u32>,
    /// `socket.receive.buffer.bytes`: `SO_RCVBUF`. Default: the system's.
    pub receive_buffer_bytes: Option<u32>,
    /// Seed of jitter and sticky partition choice. Default: from the clock and the process id; simulations fix it.
    pub seed: Option<u64>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            bootstrap_servers: Vec::new(),
            client_id: "ottla".to_owned(),
            client_rack: None,
            cores: Cores::default(),
            backend: BackendSetting::Auto,
            request_timeout: Duration::from_secs(30),
            connection_setup_timeout: Duration::from_secs(10),
            connection_setup_timeout_max: Duration::from_secs(30),
            connections_max_idle: Duration::from_secs(9 * 60),
            max_in_flight_requests: 5,
            reconnect_backoff: Duration::from_millis(50),
            reconnect_backoff_max: Duration::from_secs(1),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            default_api_timeout: Duration::from_secs(60),
            receive_message_max_bytes: 100 << 20,
            metadata_max_age: Duration::from_secs(300),
            metadata_propagation_max: Duration::from_secs(30),
            metadata_rebootstrap_trigger: Duration::from_secs(300),
            allow_auto_create_topics: true,
            buffer_memory: 32 << 20,
            fetch_memory: 64 << 20,
            keepalive: true,
            nodelay: true,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            seed: None,
        }
    }
}

impl EngineSettings {
    /// Checks every setting and their combination.
    pub fn validate(&self) -> Result<(), SettingError> {
        if self.bootstrap_servers.is_empty() {
            return Err(SettingError::new("bootstrap.servers", "at least one host:port is needed"));
        }
        if let Some(empty) = self.bootstrap_servers.iter().position(|server| server.trim().is_empty()) {
            return Err(SettingError::new("bootstrap.servers", format!("entry {} is empty", empty + 1)));
        }
        if self.client_id.len() > i16::MAX as usize {
            return Err(SettingError::new("client.id", "is longer than 32767 bytes"));
        }
        match &self.cores {
            Cores::Count(count) => check_range("cores", *count, 1, Cores::SHARDS_MAX)?,
            Cores::Affinity => {}
            Cores::Explicit(cpus) => check_range("cores", cpus.len(), 1, Cores::SHARDS_MAX)?,
        }
        check_range("max.in.flight.requests.per.connection", self.max_in_flight_requests, 1, 1000)?;
        check_range("receive.message.max.bytes", self.receive_message_max_bytes, 1 << 10, i32::MAX as usize)?;
        check_range("buffer.memory", self.buffer_memory, 64 << 10, usize::MAX / 2)?;
        check_range("fetch.memory", self.fetch_memory, 64 << 10, usize::MAX / 2)?;
        for (key, value) in [
            ("request.timeout.ms", self.request_timeout),
            ("socket.connection.setup.timeout.ms", self.connection_setup_timeout),
            ("connections.max.idle.ms", self.connections_max_idle),
            ("metadata.max.age.ms", self.metadata_max_age),
        ] {
            if value < Duration::from_millis(1) {
                return Err(SettingError::new(key, "must be at least 1 ms"));
            }
        }
        if self.retry_backoff > self.retry_backoff_max {
            return Err(SettingError::new("retry.backoff.ms", "is larger than retry.backoff.max.ms"));
        }
        if self.reconnect_backoff > self.reconnect_backoff_max {
            return Err(SettingError::new("reconnect.backoff.ms", "is larger than reconnect.backoff.max.ms"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_with_a_server_are_valid() {
        let settings = EngineSettings { bootstrap_servers: vec!["localhost:9092".into()], ..Default::default() };
        assert_eq!(settings.validate(), Ok(()));
        assert_eq!(EngineSettings::default().validate().map_err(|e| e.key), Err("bootstrap.servers"));
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let settings =
            EngineSettings { bootstrap_servers: vec!["a:1".into()], max_in_flight_requests: 0, ..Default::default() };
        let error = settings.validate().unwrap_err();
        assert_eq!(error.to_string(), "max.in.flight.requests.per.connection: 0 is outside 1..=1000");
    }
}
