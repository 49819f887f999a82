//! The checkpoint's JSON files, read so that an error names file, field, what was expected and what was found.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::ModelError;

/// Bytes of a configuration or an index at most; the largest known has some 5 MB.
pub(super) const JSON_BYTES_MAX: u64 = 16 << 20;

/// The largest size that is read: products of two never overflow. What it is used for is bounded by the weights (`sound`).
const SIZE_MAX: u64 = 1 << 30;

/// Reads a JSON file of at most so many bytes.
pub(super) fn read_json(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ModelError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut text));
    read.map_err(|error| ModelError::io(path, error))?;
    if text.len() as u64 > bytes_max {
        return Err(ModelError::Json {
            path: path.to_path_buf(),
            reason: format!("it is larger than {bytes_max} bytes"),
        });
    }
    Ok(text)
}

/// A JSON object and the file that it came from, so that errors can name it.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) path: PathBuf,
    pub(super) value: Value,
}

impl Object {
    pub(super) fn read(path: &Path) -> Result<Object, ModelError> {
        let object = Self::read_any(path)?;
        if !object.value.is_object() {
            let reason = "an object was expected".to_owned();
            return Err(ModelError::Json {
                path: path.to_path_buf(),
                reason,
            });
        }
        Ok(object)
    }

    /// A file that need not hold an object.
    pub(super) fn read_any(path: &Path) -> Result<Object, ModelError> {
        let text = read_json(path, JSON_BYTES_MAX)?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| ModelError::Json {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
        Ok(Object {
            path: path.to_path_buf(),
            value,
        })
    }

    /// The value of a key; null counts as absent, as it does in Python's configuration classes.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn string(&self, field: &str) -> Result<Option<&str>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.refused(field, "a string", value)),
        }
    }

    /// A size: whole, from 1 to [`SIZE_MAX`].
    pub(super) fn size(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_u64() {
                Some(size) if (1..=SIZE_MAX).contains(&size) => Ok(size as usize),
                _ => Err(self.refused(field, format!("a whole number from 1 to {SIZE_MAX}"), value)),
            },
        }
    }

    pub(super) fn shown(&self, field: &str) -> String {
        self.value.get(field).unwrap_or(&Value::Null).to_string()
    }

    pub(super) fn refused(&self, field: &str, expected: impl Into<String>, found: impl ToString) -> ModelError {
        let mut found = found.to_string();
        if found.len() > 200 {
            found = found.chars().take(200).chain(['…']).collect();
        }
        ModelError::Field {
            file: self.path.clone(),
            field: field.to_owned(),
            expected: expected.into(),
            found,
        }
    }
}
