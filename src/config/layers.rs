//! The layers (defaults < file < environment < flags) and the check that every name in them is known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, ValueKind};

use crate::files::reading;
use crate::jose::alg::Algorithm;
use crate::text;
use crate::values::{Network, Origin, Refusal, check_path};

use super::ConfigError;
use super::service_links::describes_service;
use super::settings::{self, SETTINGS, Setting, Shape};

/// What was written, and where: the environment is an argument.
#[derive(Clone, Default)]
pub struct Sources {
    /// The TOML file of `--config`.
    pub file: Option<PathBuf>,
    /// The environment; variables that do not begin with `KEYROUND_` are not looked at.
    pub environment: BTreeMap<String, String>,
    /// Settings from flags, by name (`server.listen`), written as in the environment.
    pub flags: BTreeMap<String, String>,
    /// `--dev`: the issuer and the place of the master key have defaults.
    pub development: bool,
}

impl Sources {
    /// The sources of this process: its environment, and what its arguments said.
    ///
    /// # Errors
    /// A `KEYROUND_` variable that is not Unicode.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process(file: Option<PathBuf>, development: bool) -> Result<Self, ConfigError> {
        let mut environment = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| is_ours(name)).map(str::to_owned) else {
                continue;
            };
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::NotUnicode { variable: name });
            };
            environment.insert(name, value);
        }
        Ok(Self {
            file,
            environment,
            flags: BTreeMap::new(),
            development,
        })
    }
}

/// Who called `sudo`, as it says.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "only this module reads the environment")]
pub fn sudo_user() -> Option<String> {
    std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty())
}

/// Names the variables and flags, not their values: a secret may be among them.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("environment", &self.environment.keys())
            .field("flags", &self.flags.keys())
            .field("development", &self.development)
            .finish()
    }
}

/// Whether a variable is meant for Keyround, in any spelling of the prefix.
fn is_ours(variable: &str) -> bool {
    variable.to_uppercase().starts_with("KEYROUND_")
}

/// The winning value of each setting, in the shape that its kind asks for.
#[derive(Debug)]
pub(super) struct Layers {
    values: BTreeMap<String, toml::Value>,
    /// The settings that somebody wrote, with the name under which the winner did.
    given: BTreeMap<String, String>,
}

impl Layers {
    /// Reads and merges the sources.
    pub(super) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let file = sources.file.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let in_file = sources
            .file
            .as_deref()
            .map_or(Ok(BTreeSet::new()), |path| names_in(path, &file))?;
        let given = given_names(sources, &in_file)?;
        let merged = merge(sources, &file).map_err(|_| ConfigError::Unmerged)?;

        let mut layers = Self {
            values: BTreeMap::new(),
            given,
        };
        for setting in SETTINGS {
            if let Ok(value) = merged.get::<config::Value>(&setting.name()) {
                if let Some(cure) = other_list(setting, &value.kind) {
                    return Err(layers.refused(&setting.name(), None, cure));
                }
                let found = described(setting, &value.kind);
                let value = shaped(setting, value.kind).ok_or_else(|| layers.wrong_shape(setting, found))?;
                layers.values.insert(setting.name(), value);
            }
        }
        Ok(layers)
    }

    /// Whether somebody wrote the setting; a default does not count.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Sets what no source said.
    pub(super) fn set(&mut self, name: &str, value: impl Into<toml::Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// Forgets a value.
    pub(super) fn unset(&mut self, name: &str) {
        self.values.remove(name);
    }

    /// The values as they stand.
    pub(super) fn into_values(self) -> BTreeMap<String, toml::Value> {
        self.values
    }

    /// A text, read by `parse`; none when the setting has no value.
    pub(super) fn text<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.values.get(name).and_then(toml::Value::as_str) else {
            return Ok(None);
        };
        if self.is_quoted_variable(name, text) {
            let why = "has quotation marks, which the environment keeps; leave them out".to_owned();
            return Err(self.refused(name, None, why));
        }
        if let Some(why) = home_fault(name, text) {
            return Err(self.refused(name, Some(text), why));
        }
        if text.trim().is_empty() {
            return Err(self.refused(name, Some(""), "is empty; leave it out, or write a value".to_owned()));
        }
        if settings::find(name).is_some_and(|setting| setting.kind == settings::SettingKind::File) {
            check_path(text).map_err(|Refusal(why)| self.refused(name, Some(text), why))?;
        }
        parse(text)
            .map(Some)
            .map_err(|Refusal(why)| self.refused(name, Some(text), why))
    }

    /// A text that has a default.
    pub(super) fn required<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<T, ConfigError> {
        self.text(name, parse)?.ok_or_else(|| missing(name))
    }

    /// A list of texts, each read by `parse`.
    pub(super) fn list<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, ConfigError> {
        let items = self
            .values
            .get(name)
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten();
        items
            .filter_map(toml::Value::as_str)
            .map(|item| parse(item).map_err(|Refusal(why)| self.refused(name, None, unrepeated(item, why))))
            .collect()
    }

    /// A flag; without a value it is off.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.values.get(name).and_then(toml::Value::as_bool).unwrap_or(false)
    }

    /// A whole number of the type that is asked for.
    pub(super) fn count<T: TryFrom<i64>>(&self, name: &'static str) -> Result<T, ConfigError> {
        let number = self.values.get(name).and_then(toml::Value::as_integer);
        let number = number.ok_or_else(|| missing(name))?;
        T::try_from(number).map_err(|_| {
            let preset = settings::find(name).and_then(Setting::default).unwrap_or("1");
            let why = format!("is out of range; write a whole number that is not negative, such as {preset}");
            self.refused(name, Some(&number.to_string()), why)
        })
    }

    fn refused(&self, name: &str, text: Option<&str>, why: String) -> ConfigError {
        let is_secret = settings::find(name).is_none_or(|setting| setting.secret);
        let (quoted, why) = match text {
            Some(text) if text::holds_secret(text) => (String::new(), unrepeated(text, why)),
            Some(text) if !is_secret && !text.is_empty() => (format!(" '{}'", text.escape_debug()), why),
            _ => (String::new(), why),
        };
        ConfigError::BadValue {
            setting: self.written_name(name),
            quoted,
            why,
        }
    }

    fn wrong_shape(&self, setting: &Setting, found: String) -> ConfigError {
        ConfigError::BadType {
            setting: self.written_name(&setting.name()),
            found,
            form: setting.kind.form(),
        }
    }

    /// Whether a variable's value is in quotation marks: files of variables, as Docker reads them, are not read by a shell.
    fn is_quoted_variable(&self, name: &str, text: &str) -> bool {
        let is_variable = settings::find(name).is_some_and(|setting| self.written_name(name) == setting.variable());
        let is_within = |mark: char| text.len() > 1 && text.starts_with(mark) && text.ends_with(mark);
        is_variable && (is_within('"') || is_within('\''))
    }

    /// The name that the person wrote: the variable's where the environment won.
    pub(super) fn written_name(&self, name: &str) -> String {
        self.given.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let content = reading::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound if path.starts_with("~") => unreadable(std::io::Error::other(
            "it begins with '~', which a shell replaces only at the beginning of a word; write --config FILE without '=', or the whole path",
        )),
        _ => unreadable(error),
    })?;
    let text = text::decode(&content).map_err(|error| unreadable(std::io::Error::other(error)))?;
    Ok(text.to_owned())
}

/// The names in the file, all of them known. What the parser says is passed on without the line that it quotes, for a
/// secret may stand there.
fn names_in(path: &Path, text: &str) -> Result<BTreeSet<String>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::NotToml {
        path: path.to_owned(),
        line: error
            .span()
            .map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
        why: text::without_secrets(error.message()),
    })?;
    let unknown = |name: String| {
        Err(ConfigError::UnknownField {
            path: path.to_owned(),
            hint: match hint(&name, Setting::name) {
                none if none.is_empty() => section_hint(&name),
                hint => hint,
            },
            name: text::without_secrets(&name),
        })
    };
    let mut names = BTreeSet::new();
    for (section, fields) in &table {
        if !SETTINGS.iter().any(|setting| setting.section == section) {
            return unknown(section.clone());
        }
        let Some(fields) = fields.as_table() else {
            return Err(ConfigError::NotASection {
                path: path.to_owned(),
                name: text::without_secrets(section),
            });
        };
        for field in fields.keys() {
            let name = format!("{section}.{field}");
            let known = SETTINGS
                .iter()
                .any(|setting| setting.section == section && setting.field == field);
            if !known {
                return unknown(name);
            }
            names.insert(name);
        }
    }
    Ok(names)
}

/// Every setting that some source gives, with the name it has in the strongest of them; unknown names are refused.
fn given_names(sources: &Sources, in_file: &BTreeSet<String>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut given: BTreeMap<String, String> = in_file.iter().map(|name| (name.clone(), name.clone())).collect();
    for (variable, value) in sources.environment.iter().filter(|(name, _)| is_ours(name)) {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == *variable) else {
            if describes_service(variable, value) {
                continue;
            }
            return Err(ConfigError::UnknownVariable {
                name: text::without_secrets(variable),
                hint: hint(&variable.to_uppercase(), Setting::variable),
            });
        };
        given.insert(setting.name(), variable.clone());
    }
    for name in sources.flags.keys() {
        let Some(setting) = settings::find(name) else {
            return Err(ConfigError::UnknownFlag {
                name: text::without_secrets(name),
                // A flag takes the file of a secret, not the secret.
                hint: hint(name, |setting| {
                    let file = if setting.secret { "_file" } else { "" };
                    format!("{}{file}", setting.name())
                }),
            });
        };
        given.insert(setting.name(), name.clone());
    }
    Ok(given)
}

/// What other programs call a setting.
const OTHER_NAMES: [(&[&str], &str); 4] = [
    (&["port", "host", "bind", "address", "addr"], "server.listen"),
    (&["level", "loglevel", "verbosity"], "log.filter"),
    (&["dsn", "uri", "databaseurl"], "database.url"),
    (&["origins", "corsorigins", "cors"], "accounts.allowed_origins"),
];

/// "; did you mean ...?" for the known name that is spelt most alike, if one is near enough.
fn hint(unknown: &str, name: impl Fn(&Setting) -> String) -> String {
    if matches!(
        unknown,
        "KEYROUND_CONFIG" | "KEYROUND_CONFIG_FILE" | "KEYROUND_CONFIG_PATH"
    ) {
        return "; the settings file is named by --config FILE alone".to_owned();
    }
    let plain = |name: &str| name.replace(['_', '.', '-'], "").to_lowercase();
    let (whole, written) = (plain(unknown), plain(unknown.trim_start_matches("KEYROUND_")));
    let nearest = SETTINGS
        .iter()
        .map(|setting| {
            // Without its section a name is common too: `listen` for `server.listen`.
            let distance = strsim::damerau_levenshtein(&whole, &plain(&name(setting)))
                .min(strsim::damerau_levenshtein(&written, &plain(setting.field)));
            (distance, setting)
        })
        .min_by_key(|(distance, _)| *distance);
    let last = unknown.rsplit(['.', '_']).next().unwrap_or_default();
    let other = OTHER_NAMES.iter().find(|(others, _)| {
        let is_one = |text: &str| others.contains(&plain(text).as_str());
        is_one(last) || is_one(&written)
    });
    // A third of the letters may be wrong: "listne" means "listen".
    nearest
        .filter(|(distance, _)| distance * 3 <= written.len())
        .map(|(_, setting)| setting)
        .or_else(|| settings::find(other?.1))
        .map_or(String::new(), |setting| format!("; did you mean {}?", name(setting)))
}

/// The same for the name of a section.
fn section_hint(unknown: &str) -> String {
    let section = unknown.split('.').next().unwrap_or_default();
    let known = text::nearest(section, SETTINGS.iter().map(|setting| setting.section));
    known
        .filter(|known| *known != section)
        .map_or(String::new(), |known| format!("; did you mean [{known}]?"))
}

/// The variables that are settings: what else begins with the prefix must not shadow a section.
fn settings_in(environment: &BTreeMap<String, String>) -> HashMap<String, String> {
    let known: BTreeSet<String> = SETTINGS.iter().map(Setting::variable).collect();
    environment
        .iter()
        .filter(|(name, _)| known.contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn merge(sources: &Sources, file: &str) -> Result<config::Config, config::ConfigError> {
    let environment = Environment::with_prefix("KEYROUND")
        .prefix_separator("_")
        .separator("__")
        .source(Some(settings_in(&sources.environment)));
    let mut builder = config::Config::builder()
        .add_source(File::from_str(&settings::defaults(), FileFormat::Toml))
        .add_source(File::from_str(file, FileFormat::Toml))
        .add_source(environment);
    for (name, value) in &sources.flags {
        builder = builder.set_override(name, value.as_str())?;
    }
    builder.build()
}

/// The value in the shape of its setting. Only the environment and flags write flags, numbers and lists as text; in a file a
/// quoted number is a wrong type, but says what it means.
fn shaped(setting: &Setting, value: ValueKind) -> Option<toml::Value> {
    match (setting.kind.shape(), value) {
        (Shape::Text, ValueKind::String(text)) => Some(text.into()),
        // A duration without a unit gets its own sentence.
        (Shape::Text, ValueKind::I64(number)) if setting.kind == settings::SettingKind::Duration => {
            Some(number.to_string().into())
        }
        (Shape::Flag, ValueKind::Boolean(flag)) => Some(flag.into()),
        (Shape::Flag, ValueKind::String(text)) => text.parse::<bool>().ok().map(Into::into),
        (Shape::Count, ValueKind::I64(number)) => Some(number.into()),
        (Shape::Count, ValueKind::String(text)) => text.parse::<i64>().ok().map(Into::into),
        (Shape::List, ValueKind::String(text)) => Some(split(&text, separator(setting))),
        (Shape::List, ValueKind::Array(items)) => items
            .into_iter()
            .map(|item| match item.kind {
                ValueKind::String(text) => Some(text.into()),
                _ => None,
            })
            .collect::<Option<Vec<toml::Value>>>()
            .map(Into::into),
        _ => None,
    }
}

/// What to write instead of a list in JSON or TOML where a text was to be split: its items would keep brackets and quotation marks.
fn other_list(setting: &Setting, value: &ValueKind) -> Option<String> {
    let (Shape::List, ValueKind::String(text)) = (setting.kind.shape(), value) else {
        return None;
    };
    let separator = separator(setting);
    let twice = text.split(separator).rev().skip(1).any(|item| item.trim().is_empty());
    if twice {
        let name = if separator == ',' { "comma" } else { "semicolon" };
        return Some(format!(
            "has a {name} with nothing before it; leave it out, or write what is missing there"
        ));
    }
    if text.trim_start().starts_with('[') {
        let items = text
            .split(',')
            .map(|item| item.trim_matches(['[', ']', '"', '\'', ' ']));
        let items: Vec<&str> = items.collect();
        // What is proposed is accepted, and repeats no secret.
        let meant = if !text::holds_secret(text) && items.iter().all(|item| is_item(setting.kind, item)) {
            items.join(",")
        } else {
            let form = setting
                .kind
                .form()
                .split_once("such as ")
                .map_or(setting.example(), |(_, form)| form);
            let items = form.trim_matches(['[', ']']).replace(", ", &separator.to_string());
            format!("such as {}", items.replace('"', ""))
        };
        return Some(format!(
            "is a list as in a file; in the environment its items are {} separated: write {meant}",
            if separator == ',' { "comma" } else { "semicolon" },
        ));
    }
    // 'api role=admin,owner' would else be a policy 'api' and a policy 'owner' that requires nothing.
    (separator != ',' && text.contains(',')).then(|| {
        format!(
            "has a comma, which separates nothing here; write '{separator}' between two policies, repeat the word for several values \
             (role=admin role=owner), and write a value that has a comma in the settings file"
        )
    })
}

/// Whether a list of this kind accepts the item.
fn is_item(kind: settings::SettingKind, item: &str) -> bool {
    match kind {
        settings::SettingKind::Networks => item.parse::<Network>().is_ok(),
        settings::SettingKind::Origins => item.parse::<Origin>().is_ok(),
        settings::SettingKind::Algorithms => item.parse::<Algorithm>().is_ok(),
        _ => false,
    }
}

/// A value of the wrong shape, for a sentence.
fn described(setting: &Setting, value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) if setting.secret || text::holds_secret(text) => "another text".to_owned(),
        ValueKind::String(text) => format!("'{}'", text.escape_debug()),
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Boolean(_) => "true or false".to_owned(),
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) | ValueKind::Float(_) => {
            "a number".to_owned()
        }
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "an array".to_owned(),
    }
}

/// A refusal without the text that may hold a secret.
fn unrepeated(text: &str, why: String) -> String {
    if !text::holds_secret(text) {
        return why;
    }
    let escaped = text.escape_debug().to_string();
    text::without_parts_of(text, &why.replace(&escaped, "...").replace(text, "..."))
}

fn missing(name: &'static str) -> ConfigError {
    let cure = settings::find(name).map_or(String::new(), |setting| {
        let example = setting.example().trim_matches('"');
        let development = if name == "server.issuer" {
            ", or try Keyround on this machine by 'keyround serve --dev', whose other commands need --dev too"
        } else {
            ""
        };
        format!(
            "set {}={example}, or {name} in the settings file{development}",
            setting.variable()
        )
    });
    ConfigError::Missing { setting: name, cure }
}

/// Why a path that begins with '~' names another file than is meant: only a shell replaces it.
fn home_fault(name: &str, text: &str) -> Option<String> {
    let kind = settings::find(name)?.kind;
    let (before, path) = match kind {
        settings::SettingKind::File => ("", text),
        settings::SettingKind::Database => ("sqlite:", text.strip_prefix("sqlite:")?.trim_start_matches("//")),
        _ => return None,
    };
    // A folder of this name may be there from an earlier version.
    if !path.starts_with('~') || Path::new(path).exists() {
        return None;
    }
    let meant = path.strip_prefix("~/").and_then(|rest| Some(home()?.join(rest)));
    let form = meant.unwrap_or_else(|| PathBuf::from("/home/USER/FILE"));
    Some(format!(
        "begins with '~', which only a shell replaces by a home directory; write the whole path, such as {before}{}",
        form.display()
    ))
}

/// The home directory of the user whose process this is, for proposals.
pub(super) fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// What separates the items of a list in one text: a character that no item has.
fn separator(setting: &Setting) -> char {
    if setting.kind == settings::SettingKind::Policies {
        ';'
    } else {
        ','
    }
}

/// The items of a list in one text; an empty text is an empty list, and a separator may be behind the last item.
fn split(text: &str, separator: char) -> toml::Value {
    let text = text.trim();
    let text = text.strip_suffix(separator).unwrap_or(text);
    if text.trim().is_empty() {
        return toml::Value::Array(Vec::new());
    }
    text.split(separator)
        .map(|item| item.trim().to_owned())
        .collect::<Vec<_>>()
        .into()
}
