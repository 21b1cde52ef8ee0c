//! What a message definition says, in the form that both steps share.

use std::fmt;

/// Inclusive versions; `hi` is `i16::MAX` for "and later".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub lo: i16,
    pub hi: i16,
}

impl Versions {
    /// `3`, `0-4`, `2+`; none for `none`.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let number = |text: &str| text.parse::<i16>().map_err(|_| format!("not a version: {text}"));
        if text == "none" {
            return Ok(None);
        }
        let (lo, hi) = if let Some(lo) = text.strip_suffix('+') {
            (number(lo)?, i16::MAX)
        } else if let Some((lo, hi)) = text.split_once('-') {
            (number(lo)?, number(hi)?)
        } else {
            (number(text)?, number(text)?)
        };
        if lo <= hi { Ok(Some(Self { lo, hi })) } else { Err(format!("empty versions: {text}")) }
    }

    pub fn contains(self, version: i16) -> bool {
        self.lo <= version && version <= self.hi
    }

    pub fn and(self, other: Self) -> Option<Self> {
        let both = Self { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) };
        (both.lo <= both.hi).then_some(both)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.lo, self.hi) {
            (lo, i16::MAX) => write!(f, "{lo}+"),
            (lo, hi) if lo == hi => write!(f, "{lo}"),
            (lo, hi) => write!(f, "{lo}-{hi}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    Header,
    Data,
}

/// One message: an API's request or response, a header, or a schema without an API.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub kind: Kind,
    pub name: String,
    pub api: Option<i16>,
    /// Valid and stable versions.
    pub versions: Versions,
    /// The first flexible version.
    pub flexible: Option<i16>,
    pub listeners: Vec<String>,
    /// Structures that several fields use.
    pub structs: Vec<Struct>,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Struct {
    pub name: String,
    pub versions: Versions,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    pub versions: Versions,
    pub nullable: Option<Versions>,
    pub tag: Option<(u32, Versions)>,
    /// As written in the definition; `null` is the null default.
    pub default: Option<String>,
    pub ignorable: bool,
    pub key: bool,
    /// Lengths are never compact.
    pub inflexible: bool,
    pub about: String,
    /// The fields of a structure defined here.
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
    Struct(String),
    Array(Box<Type>),
}

const PRIMITIVES: [(&str, Type); 12] = [
    ("bool", Type::Bool),
    ("int8", Type::Int8),
    ("int16", Type::Int16),
    ("uint16", Type::Uint16),
    ("int32", Type::Int32),
    ("uint32", Type::Uint32),
    ("int64", Type::Int64),
    ("float64", Type::Float64),
    ("uuid", Type::Uuid),
    ("string", Type::String),
    ("bytes", Type::Bytes),
    ("records", Type::Records),
];

impl Type {
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(element) = text.strip_prefix("[]") {
            return Ok(Self::Array(Box::new(Self::parse(element)?)));
        }
        match PRIMITIVES.iter().find(|(name, _)| *name == text) {
            Some((_, ty)) => Ok(ty.clone()),
            None if text.starts_with(|c: char| c.is_ascii_uppercase()) => Ok(Self::Struct(text.to_string())),
            None => Err(format!("unknown type {text}")),
        }
    }

    /// The structure that this type or its elements are.
    pub fn struct_name(&self) -> Option<&str> {
        match self {
            Self::Struct(name) => Some(name),
            Self::Array(element) => element.struct_name(),
            _ => None,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Struct(name) => f.write_str(name),
            Self::Array(element) => write!(f, "[]{element}"),
            other => f.write_str(PRIMITIVES.iter().find(|(_, ty)| ty == other).map_or("?", |(name, _)| name)),
        }
    }
}
