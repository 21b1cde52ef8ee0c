//! Settings from several sources, one over the other: defaults < file < environment < `-X key=value` (K-6..K-21).

use std::collections::BTreeMap;
use std::fmt;

use super::setting::{Role, Setting, State, Value};
use super::table::{SETTINGS, closest, find};
use super::{
    Acks, AutoOffsetReset, BackendSetting, Compression, ConsumerSettings, Cores, EngineSettings, IsolationLevel,
    ProducerSettings,
};

/// Where a value came from. Later variants win over earlier ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// A configuration file.
    File(String),
    /// An environment variable.
    Env(String),
    /// `-X key=value`, or a command's own option.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {path}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "option {flag}"),
        }
    }
}

/// A setting that cannot be taken: which, from where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key} = {value} ({source_name}): {reason}")]
pub struct ConfigError {
    /// The key as it was written.
    pub key: String,
    /// The value as it was written, masked where it may be a secret.
    pub value: String,
    /// Where it was written.
    pub source_name: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// Words in a name that make its value a secret, known key or not.
const SECRET_WORDS: [&str; 9] = ["pass", "pwd", "secret", "token", "credential", "jaas", "private", "sasl", "auth"];

/// Shows a value unless its key says that it may be a secret.
fn shown(key: &str, setting: Option<&Setting>, value: &str) -> String {
    let lower = key.to_ascii_lowercase();
    let secret = match setting {
        Some(setting) => matches!(setting.kind, super::setting::Kind::Secret),
        None => {
            SECRET_WORDS.iter().any(|word| lower.contains(word))
                || closest(key).and_then(find).is_some_and(|near| matches!(near.kind, super::setting::Kind::Secret))
        }
    };
    if secret { "[hidden]".to_owned() } else { value.escape_debug().to_string() }
}

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    source: Source,
}

/// Values by setting, each with the source that won.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    entries: BTreeMap<&'static str, Entry>,
    notes: Vec<String>,
}

impl Layers {
    /// Nothing set: all defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one key. A value from a later source (file < environment < flag) wins, whatever the order of calls; within one
    /// source the last wins.
    ///
    /// # Errors
    /// Unknown keys (with the nearest known one), values of the wrong type or out of range, settings of later versions.
    pub fn set(&mut self, key: &str, text: &str, source: Source) -> Result<(), ConfigError> {
        let name = key.trim();
        let setting = find(name);
        let fail = |reason: String| ConfigError {
            key: name.escape_debug().to_string(),
            value: shown(name, setting, text),
            source_name: source.to_string(),
            reason,
        };
        let Some(setting) = setting else {
            let hint = match closest(name) {
                Some(known) => format!("unknown key; did you mean {known}? `ottla config list` shows all keys"),
                None => "unknown key; `ottla config list` shows all keys".to_owned(),
            };
            return Err(fail(hint));
        };
        let value = setting.parse(text).map_err(&fail)?;
        let default = (!setting.default.is_empty()).then(|| setting.parse(setting.default).ok()).flatten();
        match setting.state {
            State::Refused if Some(&value) != default.as_ref() => return Err(fail(setting.what.to_owned())),
            State::Later => {
                let note = format!("{} has no effect in this version: {}", setting.name, setting.what);
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
            }
            _ => {}
        }
        let wins = self.entries.get(setting.name).is_none_or(|old| rank(&source) >= rank(&old.source));
        if wins {
            self.entries.insert(setting.name, Entry { value, source });
        }
        Ok(())
    }

    /// Takes `key=value`.
    ///
    /// # Errors
    /// As [`Layers::set`], and for a text without `=`.
    pub fn set_flag(&mut self, text: &str) -> Result<(), ConfigError> {
        match text.split_once('=') {
            Some((key, value)) => self.set(key, value, Source::Flag("-X".into())),
            None => Err(ConfigError {
                key: text.escape_debug().to_string(),
                value: String::new(),
                source_name: "option -X".into(),
                reason: "expected key=value".into(),
            }),
        }
    }

    /// Takes the `KAFKA_*` variables of K-11 to K-16. Other variables are left alone.
    ///
    /// # Errors
    /// As [`Layers::set`].
    pub fn set_env(&mut self, vars: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let mut vars: Vec<(String, String)> = vars.filter(|(name, _)| name.starts_with("KAFKA_")).collect();
        vars.sort();
        for (name, value) in vars {
            let source = Source::Env(name.clone());
            match name.as_str() {
                "KAFKA_BOOTSTRAP_SERVERS" => self.set("bootstrap.servers", &value, source)?,
                "KAFKA_GROUP_ID" => self.set("group.id", &value, source)?,
                "KAFKA_COMPRESSION_TYPE" => self.set("compression.type", &value, source)?,
                "KAFKA_INITIAL_OFFSET_SMALLEST" => self.set("initial_offset_smallest", &value, source)?,
                _ => {
                    if let Some(rest) = name.strip_prefix("KAFKA_SETTING_") {
                        // Every `_` becomes a dot; keys that contain an underscore are reached by their alias (features §7-22).
                        let lower = rest.to_ascii_lowercase();
                        let dotted = lower.replace('_', ".");
                        let key = if find(&dotted).is_none() && find(&lower).is_some() { lower } else { dotted };
                        self.set(&key, &value, source)?;
                    } else if let Some(rest) = name.strip_prefix("KAFKA_SASL_") {
                        self.set(&format!("sasl.{}", rest.to_ascii_lowercase().replace('_', ".")), &value, source)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What was set without effect, for one warning each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The value that counts, and its source unless it is the default. `None` where it is unset and has no default.
    pub fn get(&self, name: &str) -> Option<(Value, Option<&Source>)> {
        let setting = find(name)?;
        if let Some(entry) = self.entries.get(setting.name) {
            return Some((entry.value.clone(), Some(&entry.source)));
        }
        if setting.default.is_empty() { None } else { setting.parse(setting.default).ok().map(|value| (value, None)) }
    }

    /// Whether the key was set by any source.
    pub fn is_set(&self, name: &str) -> bool {
        find(name).is_some_and(|setting| self.entries.contains_key(setting.name))
    }

    fn value(&self, name: &str) -> Value {
        debug_assert!(find(name).is_some(), "{name} is not in the table");
        self.get(name).map_or_else(|| Value::Text(String::new()), |(value, _)| value)
    }

    /// The effective configuration (K-17): a "Bootstrap Servers:" line, a "Settings:" line, then one indented `key: value`
    /// line per key that was set. Secrets are masked.
    pub fn dump(&self) -> String {
        let servers = "bootstrap.servers";
        let servers = shown(servers, find(servers), &self.value(servers).to_string());
        let mut out = format!("Bootstrap Servers: {servers}\nSettings:\n");
        for (name, entry) in &self.entries {
            if *name != "bootstrap.servers" {
                out.push_str(&format!("  {name}: {}\n", shown(name, find(name), &entry.value.to_string())));
            }
        }
        out
    }

    /// Every active setting of `role` with its value, masked where secret, and its source.
    pub fn effective(&self, role: Option<Role>) -> Vec<(&'static Setting, String, String)> {
        SETTINGS
            .iter()
            .filter(|setting| role.is_none_or(|role| setting.role == role))
            .map(|setting| {
                let (value, source) = match self.get(setting.name) {
                    Some((value, source)) => {
                        (value.to_string(), source.map_or_else(|| "default".to_owned(), ToString::to_string))
                    }
                    None => (String::new(), "default".to_owned()),
                };
                (setting, shown(setting.name, Some(setting), &value), source)
            })
            .collect()
    }

    fn error(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        let (value, source) = match self.get(key) {
            Some((value, source)) => {
                (value.to_string(), source.map_or_else(|| "default".to_owned(), ToString::to_string))
            }
            None => (String::new(), "default".to_owned()),
        };
        ConfigError {
            key: key.to_owned(),
            value: shown(key, find(key), &value),
            source_name: source,
            reason: reason.into(),
        }
    }

    fn checked<T>(&self, settings: T, result: Result<(), super::SettingError>) -> Result<T, ConfigError> {
        match result {
            Ok(()) => Ok(settings),
            Err(error) => Err(self.error(error.key, error.reason)),
        }
    }

    /// The engine's part.
    ///
    /// # Errors
    /// Values that contradict each other.
    pub fn engine(&self) -> Result<EngineSettings, ConfigError> {
        let optional_bytes = |name: &str| {
            let bytes = self.value(name).int();
            u32::try_from(bytes).ok().filter(|bytes| *bytes > 0)
        };
        let affinity = self.value("cpu.affinity");
        let cores = if affinity.text().is_empty() {
            Cores::Count(self.value("shards").size())
        } else {
            Cores::Explicit(cpu_list(affinity.text()).map_err(|reason| self.error("cpu.affinity", reason))?)
        };
        let settings = EngineSettings {
            bootstrap_servers: self.value("bootstrap.servers").list().to_vec(),
            client_id: self.value("client.id").text().to_owned(),
            client_rack: Some(self.value("client.rack").text().to_owned()).filter(|rack| !rack.is_empty()),
            cores,
            backend: match self.value("io.backend").text() {
                "io_uring" => BackendSetting::IoUring,
                "epoll" => BackendSetting::Epoll,
                _ => BackendSetting::Auto,
            },
            request_timeout: self.value("request.timeout.ms").millis(),
            connection_setup_timeout: self.value("socket.connection.setup.timeout.ms").millis(),
            connection_setup_timeout_max: self.value("socket.connection.setup.timeout.max.ms").millis(),
            connections_max_idle: self.value("connections.max.idle.ms").millis(),
            max_in_flight_requests: self.value("max.in.flight.requests.per.connection").size(),
            reconnect_backoff: self.value("reconnect.backoff.ms").millis(),
            reconnect_backoff_max: self.value("reconnect.backoff.max.ms").millis(),
            retry_backoff: self.value("retry.backoff.ms").millis(),
            retry_backoff_max: self.value("retry.backoff.max.ms").millis(),
            default_api_timeout: self.value("default.api.timeout.ms").millis(),
            receive_message_max_bytes: self.value("receive.message.max.bytes").size(),
            metadata_max_age: self.value("metadata.max.age.ms").millis(),
            metadata_propagation_max: self.value("topic.metadata.propagation.max.ms").millis(),
            metadata_rebootstrap_trigger: self.value("metadata.recovery.rebootstrap.trigger.ms").millis(),
            allow_auto_create_topics: self.value("allow.auto.create.topics").bool(),
            buffer_memory: self.value("buffer.memory").size(),
            fetch_memory: self.value("fetch.memory").size(),
            keepalive: self.value("socket.keepalive.enable").bool(),
            nodelay: self.value("socket.nagle.disable").bool(),
            send_buffer_bytes: optional_bytes("send.buffer.bytes"),
            receive_buffer_bytes: optional_bytes("receive.buffer.bytes"),
            seed: None,
        };
        let checked = settings.validate();
        self.checked(settings, checked)
    }

    /// The producer's part.
    ///
    /// # Errors
    /// Values that contradict each other.
    pub fn producer(&self) -> Result<ProducerSettings, ConfigError> {
        let acks = match self.value("acks").text() {
            "0" => Acks::None,
            "1" => Acks::Leader,
            _ => Acks::All,
        };
        // Idempotence is on by default; asking for weaker acks alone turns it off, asking for both is a contradiction.
        let idempotence =
            self.value("enable.idempotence").bool() && (acks == Acks::All || self.is_set("enable.idempotence"));
        let settings = ProducerSettings {
            acks,
            idempotence,
            transactional_id: None,
            linger: self.value("linger.ms").millis(),
            batch_size: self.value("batch.size").size(),
            batch_raw_size_max: self.value("batch.raw.size.max").size(),
            batch_count_max: u32::try_from(self.value("batch.num.messages").int()).ok().filter(|count| *count > 0),
            max_request_size: self.value("max.request.size").size(),
            compression: match self.value("compression.type").text() {
                "gzip" => Compression::Gzip,
                "snappy" => Compression::Snappy,
                "lz4" => Compression::Lz4,
                "zstd" => Compression::Zstd,
                _ => Compression::None,
            },
            compression_level: i32::try_from(self.value("compression.level").int()).ok().filter(|level| *level != 0),
            delivery_timeout: self.value("delivery.timeout.ms").millis(),
            max_block: self.value("max.block.ms").millis(),
            partitioner_ignore_keys: self.value("partitioner.ignore.keys").bool(),
            ..ProducerSettings::default()
        };
        let in_flight = self.value("max.in.flight.requests.per.connection").int();
        if settings.idempotence && in_flight > 5 {
            let reason = "at most 5 with enable.idempotence=true: brokers remember the last five batches of a producer";
            return Err(self.error("max.in.flight.requests.per.connection", reason));
        }
        let checked = settings.validate();
        self.checked(settings, checked)
    }

    /// The consumer's part.
    ///
    /// # Errors
    /// Values that contradict each other.
    pub fn consumer(&self) -> Result<ConsumerSettings, ConfigError> {
        let reset = if !self.is_set("auto.offset.reset") && self.is_set("initial_offset_smallest") {
            if self.value("initial_offset_smallest").bool() {
                AutoOffsetReset::Earliest
            } else {
                AutoOffsetReset::Latest
            }
        } else {
            match self.value("auto.offset.reset").text() {
                "earliest" => AutoOffsetReset::Earliest,
                "none" => AutoOffsetReset::None,
                _ => AutoOffsetReset::Latest,
            }
        };
        let int = |name: &str| i32::try_from(self.value(name).int()).unwrap_or(i32::MAX);
        let part = int("max.partition.fetch.bytes");
        let defaults = ConsumerSettings::default();
        let settings = ConsumerSettings {
            group_id: Some(self.value("group.id").text().to_owned()).filter(|group| !group.is_empty()),
            auto_offset_reset: reset,
            isolation_level: match self.value("isolation.level").text() {
                "read_uncommitted" => IsolationLevel::ReadUncommitted,
                _ => IsolationLevel::ReadCommitted,
            },
            fetch_min_bytes: int("fetch.min.bytes"),
            fetch_max_bytes: int("fetch.max.bytes"),
            max_partition_fetch_bytes: part,
            max_partition_fetch_bytes_grown: defaults.max_partition_fetch_bytes_grown.max(part),
            fetch_max_wait: self.value("fetch.max.wait.ms").millis(),
            ..defaults
        };
        let checked = settings.validate();
        self.checked(settings, checked)
    }
}

/// Order of sources: the higher wins.
fn rank(source: &Source) -> u8 {
    match source {
        Source::File(_) => 1,
        Source::Env(_) => 2,
        Source::Flag(_) => 3,
    }
}

/// `0,2-3` into processor numbers.
fn cpu_list(text: &str) -> Result<Vec<usize>, String> {
    /// What the kernel's affinity mask holds in its usual size.
    const CPU_MAX: usize = 1_023;
    let wanted = "expected processor numbers such as 0,2-3";
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|cpu| *cpu <= CPU_MAX).ok_or(wanted);
    let mut cpus = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(wanted.to_owned());
                }
                cpus.extend(first..=last);
            }
            None => cpus.push(number(part)?),
        }
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> std::vec::IntoIter<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn m1_environment_wins_over_file_and_flag_over_both() {
        let mut layers = Layers::new();
        layers.set_env(env(&[("KAFKA_SETTING_LINGER_MS", "20")])).unwrap();
        layers.set("linger.ms", "10", Source::File("c.yml".into())).unwrap();
        assert_eq!(layers.producer().unwrap().linger.as_millis(), 20);
        layers.set_flag("linger.ms=30").unwrap();
        assert_eq!(layers.producer().unwrap().linger.as_millis(), 30);
    }

    #[test]
    fn k11_to_k16_variables_reach_their_settings() {
        let mut layers = Layers::new();
        layers
            .set_env(env(&[
                ("KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2"),
                ("KAFKA_GROUP_ID", "g"),
                ("KAFKA_COMPRESSION_TYPE", "zstd"),
                ("KAFKA_INITIAL_OFFSET_SMALLEST", "true"),
                ("KAFKA_SETTING_ENABLE_IDEMPOTENCE", "false"),
                ("KAFKA_SETTING_BATCH_NUM_MESSAGES", "7"),
                ("KAFKA_HEAP_OPTS", "-Xmx1g"),
                ("PATH", "/bin"),
            ]))
            .unwrap();
        assert_eq!(layers.engine().unwrap().bootstrap_servers, ["a:1", "b:2"]);
        assert_eq!(layers.consumer().unwrap().group_id.as_deref(), Some("g"));
        assert_eq!(layers.consumer().unwrap().auto_offset_reset, AutoOffsetReset::Earliest);
        let producer = layers.producer().unwrap();
        assert_eq!((producer.compression, producer.idempotence), (Compression::Zstd, false));
        assert_eq!(producer.batch_count_max, Some(7));
    }

    #[test]
    fn an_unknown_key_names_itself_its_source_and_the_nearest_key() {
        let error = Layers::new().set_flag("lingr.ms=5").unwrap_err();
        assert_eq!((error.key.as_str(), error.value.as_str()), ("lingr.ms", "5"));
        assert!(error.to_string().contains("did you mean linger.ms?"), "{error}");
        assert!(error.to_string().contains("option -X"), "{error}");
    }

    #[test]
    fn an_ill_typed_value_names_key_value_source_and_range() {
        let error = Layers::new().set_env(env(&[("KAFKA_SETTING_LINGER_MS", "soon")])).unwrap_err();
        let text = error.to_string();
        for part in ["linger.ms", "soon", "KAFKA_SETTING_LINGER_MS", "whole number"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn secrets_are_never_echoed() {
        let mut layers = Layers::new();
        for text in ["sasl.password=hunter2", "sasl.pasword=hunter2", "my.api.token=hunter2"] {
            let error = layers.set_flag(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert!(!layers.dump().contains("hunter2"));
    }

    #[test]
    fn what_would_be_unsafe_to_ignore_is_refused() {
        let error = Layers::new().set_flag("security.protocol=SSL").unwrap_err();
        assert!(error.reason.contains("not part of this version"), "{error}");
        assert_eq!(Layers::new().set_flag("security.protocol=PLAINTEXT"), Ok(()));
        assert!(Layers::new().set_flag("check.crcs=false").is_err());
    }

    #[test]
    fn idempotence_with_weaker_acks_is_an_error_only_when_asked_for() {
        let mut layers = Layers::new();
        layers.set_flag("acks=1").unwrap();
        assert!(!layers.producer().unwrap().idempotence);
        layers.set_flag("enable.idempotence=true").unwrap();
        let error = layers.producer().unwrap_err();
        assert!(error.reason.contains("acks=all"), "{error}");
    }

    #[test]
    fn more_than_five_in_flight_contradicts_idempotence() {
        let mut layers = Layers::new();
        layers.set_flag("max.in.flight.requests.per.connection=10").unwrap();
        assert_eq!(layers.producer().unwrap_err().key, "max.in.flight.requests.per.connection");
        layers.set_flag("enable.idempotence=false").unwrap();
        assert!(layers.producer().is_ok());
    }

    #[test]
    fn defaults_of_the_table_are_the_defaults_of_the_structs() {
        let layers = Layers::new();
        let engine = EngineSettings { bootstrap_servers: vec!["localhost:9092".into()], ..EngineSettings::default() };
        assert_eq!(layers.engine().unwrap(), engine);
        assert_eq!(layers.producer().unwrap(), ProducerSettings::default());
        assert_eq!(layers.consumer().unwrap(), ConsumerSettings::default());
    }

    #[test]
    fn processors_are_read_as_lists_and_ranges() {
        assert_eq!(cpu_list("0,2-4").unwrap(), [0, 2, 3, 4]);
        assert!(cpu_list("3-1").is_err() && cpu_list("x").is_err() && cpu_list("0-99999").is_err());
    }

    #[test]
    fn k17_the_dump_lists_bootstrap_servers_and_every_key_that_was_set() {
        let mut layers = Layers::new();
        layers.set_flag("bootstrap.servers=a:1,b:2").unwrap();
        layers.set_flag("linger.ms=7").unwrap();
        assert_eq!(layers.dump(), "Bootstrap Servers: a:1,b:2\nSettings:\n  linger.ms: 7\n");
    }
}
