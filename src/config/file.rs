//! Configuration files: TOML by preference, YAML because K-6 and container set-ups use it.
//!
//! Kafka's keys stand at the top level (`"linger.ms" = 5`, or nested: `[linger]` `ms = 5`) or under `settings`. K-9's own
//! spellings (`bootstrap_servers` as a list, `compression_type`, ...) are aliases of the same settings. One file serves
//! producers and consumers (K-10).

use std::path::Path;

use super::layers::{ConfigError, Layers, Source};

/// A file larger than this is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most keys and values of a YAML file, those behind aliases included.
const YAML_NODES_MAX: usize = 10_000;

/// A value in a file, whatever its format.
enum Node {
    Table(Vec<(String, Node)>),
    List(Vec<String>),
    Scalar(String),
    Null,
}

impl Layers {
    /// Takes every key of a TOML (`.toml`) or YAML (`.yml`, `.yaml`) file.
    ///
    /// # Errors
    /// A file that cannot be read, is too large or malformed, and as [`Layers::set`].
    pub fn set_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let shown = path.display().to_string();
        let fail = |reason: String| ConfigError {
            key: "config file".into(),
            value: shown.clone(),
            source_name: "option --config".into(),
            reason,
        };
        let size = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(fail(format!("is {size} bytes long; at most {FILE_BYTES_MAX} are read")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let root = match extension.to_ascii_lowercase().as_str() {
            "toml" => text.parse::<toml::Table>().map(from_toml).map_err(|error| fail(error.message().to_owned()))?,
            "yml" | "yaml" => from_yaml(&text).map_err(&fail)?,
            _ => return Err(fail("expected a name ending in .toml, .yml or .yaml".into())),
        };
        match root {
            Node::Table(pairs) => self.take(&pairs, "", &shown),
            // Comments only.
            Node::Null => Ok(()),
            _ => Err(fail("expected keys and values".into())),
        }
    }

    fn take(&mut self, pairs: &[(String, Node)], prefix: &str, path: &str) -> Result<(), ConfigError> {
        for (name, node) in pairs {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match node {
                Node::Table(inner) => {
                    let prefix = if key == "settings" { String::new() } else { key };
                    self.take(inner, &prefix, path)?;
                }
                Node::List(items) => self.set(&key, &items.join(","), Source::File(path.to_owned()))?,
                Node::Scalar(text) => self.set(&key, text, Source::File(path.to_owned()))?,
                Node::Null => {}
            }
        }
        Ok(())
    }
}

fn from_toml(table: toml::Table) -> Node {
    fn node(value: toml::Value) -> Node {
        match value {
            toml::Value::Table(table) => from_toml(table),
            toml::Value::Array(items) => Node::List(items.into_iter().map(|item| scalar(&item)).collect()),
            other => Node::Scalar(scalar(&other)),
        }
    }
    fn scalar(value: &toml::Value) -> String {
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }
    Node::Table(table.into_iter().map(|(name, value)| (name, node(value))).collect())
}

fn from_yaml(text: &str) -> Result<Node, String> {
    if text.trim().is_empty() {
        return Ok(Node::Table(Vec::new()));
    }
    // A few hundred bytes of aliases can stand for gigabytes: no configuration is larger or deeper than this.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: YAML_NODES_MAX, max_events: 4 * YAML_NODES_MAX, max_depth: 32 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: YAML_NODES_MAX },
    };
    let value: serde_json::Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    fn scalar(value: &serde_json::Value) -> String {
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }
    fn node(value: &serde_json::Value) -> Node {
        match value {
            serde_json::Value::Object(map) => {
                Node::Table(map.iter().map(|(name, value)| (name.clone(), node(value))).collect())
            }
            serde_json::Value::Array(items) => Node::List(items.iter().map(scalar).collect()),
            serde_json::Value::Null => Node::Null,
            other => Node::Scalar(scalar(other)),
        }
    }
    Ok(node(&value))
}

#[cfg(test)]
mod tests {
    use super::super::setting::State;
    use super::super::table::SETTINGS;
    use super::*;

    fn load(name: &str, text: &str) -> Result<Layers, ConfigError> {
        let folder = std::env::temp_dir().join(format!("ottla-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        let mut layers = Layers::new();
        let result = layers.set_file(&path);
        std::fs::remove_dir_all(&folder).unwrap();
        result.map(|()| layers)
    }

    #[test]
    fn k21_every_setting_is_given_by_yaml_alone_and_by_the_environment_alone() {
        for setting in SETTINGS {
            // A value that this kind of setting takes, not always its default.
            let mut tried = [setting.default, "x", "1", "a:1"].into_iter().filter(|text| !text.is_empty());
            let text = tried.find(|text| setting.parse(text).is_ok()).unwrap();
            let mut by_variable = Layers::new();
            let name = format!("KAFKA_SETTING_{}", setting.name.to_uppercase().replace('.', "_"));
            let by_yaml = load("k21.yaml", &format!("settings:\n  {}: \"{text}\"\n", setting.name));
            match (by_variable.set_env([(name, text.to_owned())].into_iter()), by_yaml) {
                (Ok(()), Ok(by_yaml)) => {
                    assert!(by_variable.is_set(setting.name) && by_yaml.is_set(setting.name), "{}", setting.name);
                    assert_eq!(by_variable.get(setting.name).unwrap().0, by_yaml.get(setting.name).unwrap().0);
                }
                // It may be given, and this version says why it does not take it.
                (Err(_), Err(_)) if matches!(setting.state, State::Refused) => {}
                (variable, yaml) => panic!("{}: {variable:?}, {:?}", setting.name, yaml.err()),
            }
        }
    }

    #[test]
    fn k9_yaml_with_its_own_spellings_and_a_settings_map() {
        let text = "bootstrap_servers:\n  - a:1\n  - b:2\ngroup_id: g\ninitial_offset_smallest: \"true\"\n\
                    compression_type: snappy\nsettings:\n  linger.ms: \"20\"\n  enable.idempotence: \"true\"\n";
        let layers = load("k9.yml", text).unwrap();
        assert_eq!(layers.engine().unwrap().bootstrap_servers, ["a:1", "b:2"]);
        let producer = layers.producer().unwrap();
        assert_eq!((producer.linger.as_millis(), producer.compression), (20, crate::config::Compression::Snappy));
        assert_eq!(layers.consumer().unwrap().group_id.as_deref(), Some("g"));
        assert_eq!(layers.consumer().unwrap().auto_offset_reset, super::super::AutoOffsetReset::Earliest);
    }

    #[test]
    fn toml_flat_and_nested_mean_the_same() {
        let flat = load("flat.toml", "\"linger.ms\" = 9\nacks = 1\n").unwrap();
        let nested = load("nested.toml", "acks = 1\n[linger]\nms = 9\n").unwrap();
        assert_eq!(flat.producer().unwrap(), nested.producer().unwrap());
    }

    #[test]
    fn a_bad_key_in_a_file_names_the_file() {
        let error = load("bad.toml", "lingr_ms = 9\n").unwrap_err();
        assert!(error.to_string().contains("bad.toml") && error.key == "lingr_ms", "{error}");
    }

    #[test]
    fn malformed_files_are_errors() {
        for (name, text) in [("a.toml", "= = ="), ("b.yml", "a: [1"), ("c.ini", "a=1"), ("d.yml", "- 1\n- 2\n")] {
            assert!(load(name, text).is_err(), "{name}");
        }
    }
}
