//! The checkpoint's JSON files, read so that an error names file, field, what was expected and what was found.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::ModelError;

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
        let text = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
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

    /// A size: whole, above 0, and small enough that products of two never overflow.
    pub(super) fn size(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_u64() {
                Some(size) if (1..=1 << 30).contains(&size) => Ok(size as usize),
                _ => Err(self.refused(field, "a whole number above 0", value)),
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
