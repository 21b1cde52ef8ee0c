//! `ottla config list | explain KEY | show`: the table of settings as people see it.

use serde_json::json;

use crate::cli::args::ConfigCommand;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::Layers;
use crate::config::setting::{Role, Setting, State};
use crate::config::table::{SETTINGS, closest, find};

pub fn run(command: ConfigCommand, layers: &Layers, output: &Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::List { role } => list(role.as_deref(), output),
        ConfigCommand::Explain { key } => explain(&key, output),
        ConfigCommand::Show => show(layers, output),
    }
}

fn role_named(name: &str) -> Result<Role, Failure> {
    [Role::Engine, Role::Producer, Role::Consumer]
        .into_iter()
        .find(|role| role.name() == name)
        .ok_or_else(|| Failure::Usage(format!("--role {}: expected engine, producer or consumer", name.escape_debug())))
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Later => "no effect yet",
        State::Refused => "not available",
    }
}

fn describe(setting: &Setting) -> serde_json::Value {
    json!({
        "name": setting.name,
        "aliases": setting.aliases,
        "role": setting.role.name(),
        "type": setting.kind_name(),
        "unit": setting.unit(),
        "default": setting.default,
        "range": setting.range(),
        "state": state_name(setting.state),
        "what": setting.what,
    })
}

fn list(role: Option<&str>, output: &Output) -> Result<(), Failure> {
    let role = role.map(role_named).transpose()?;
    let settings = SETTINGS.iter().filter(|setting| role.is_none_or(|role| setting.role == role));
    if output.json {
        return output.json(&settings.map(describe).collect());
    }
    let rows = settings
        .map(|setting| {
            let what = match setting.state {
                State::Active => setting.what.to_owned(),
                other => format!("[{}] {}", state_name(other), setting.what),
            };
            vec![
                setting.name.to_owned(),
                setting.role.name().to_owned(),
                setting.default.to_owned(),
                setting.unit().to_owned(),
                setting.range(),
                what,
            ]
        })
        .collect();
    output.table(&["key", "role", "default", "unit", "range", "meaning"], &[2], rows)
}

fn explain(key: &str, output: &Output) -> Result<(), Failure> {
    let Some(setting) = find(key) else {
        let hint = closest(key).map_or_else(String::new, |near| format!("; did you mean {near}?"));
        return Err(Failure::Usage(format!("{}: unknown key{hint}", key.escape_debug())));
    };
    if output.json {
        return output.json(&describe(setting));
    }
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    output.text(&format!(
        "{}\n  {}\n  used by:  {}\n  type:     {}\n  unit:     {}\n  default:  {}\n  range:    {}\n  aliases:  {}\n  state:    {}",
        setting.name,
        setting.what,
        setting.role.name(),
        setting.kind_name(),
        or_none(setting.unit()),
        or_none(setting.default),
        setting.range(),
        or_none(&setting.aliases.join(", ")),
        state_name(setting.state),
    ))
}

fn show(layers: &Layers, output: &Output) -> Result<(), Failure> {
    // Contradictions are found here too, not only by the command that would use the settings.
    layers.engine()?;
    layers.producer()?;
    layers.consumer()?;
    let effective = layers.effective(None);
    if output.json {
        let fields = effective
            .into_iter()
            .map(|(setting, value, source)| (setting.name.to_owned(), json!({"value": value, "source": source})));
        return output.json(&serde_json::Value::Object(fields.collect()));
    }
    let rows = effective.into_iter().map(|(setting, value, source)| vec![setting.name.to_owned(), value, source]);
    output.table(&["key", "value", "source"], &[], rows.collect())
}
