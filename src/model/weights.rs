//! Safetensors files, mapped into memory: nothing is copied or converted until the engine takes a tensor.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use memmap2::Mmap;
use safetensors::SafeTensors;

use super::error::ModelError;
use super::files::Checkpoint;

/// The number formats that the engine takes. Integer buffers that some checkpoints carry beside their weights (such as
/// `position_ids`) are never asked for; a quantized weight would be, and is refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// 64-bit float.
    F64,
}

impl Dtype {
    /// The name as safetensors writes it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F64 => "F64",
        }
    }

    /// Bytes that one element takes.
    pub fn size_bytes(self) -> usize {
        match self {
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::F32 => 4,
            Dtype::F64 => 8,
        }
    }

    fn from_file(dtype: safetensors::Dtype) -> Option<Dtype> {
        match dtype {
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::BF16 => Some(Dtype::BF16),
            safetensors::Dtype::F64 => Some(Dtype::F64),
            _ => None,
        }
    }
}

/// One tensor, still in its file: row-major, little-endian, **not** necessarily aligned for its type.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// Number format.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The bytes, `shape` × size of `dtype` of them.
    pub data: &'a [u8],
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// All tensors of a checkpoint, of one file or of many shards.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, Mmap)>,
    entries: HashMap<String, Entry>,
}

impl Weights {
    /// Maps the files and reads their headers; the tensors themselves stay on disk until they are looked at.
    ///
    /// Errors: a file that cannot be opened, is cut short or is not safetensors, a tensor that two shards hold.
    pub fn open(checkpoint: &Checkpoint) -> Result<Weights, ModelError> {
        let mut files = Vec::with_capacity(checkpoint.weights.len());
        let mut entries = HashMap::new();
        for path in &checkpoint.weights {
            let file = File::open(path).map_err(|error| ModelError::io(path, error))?;
            // SAFETY: the map is read-only and outlives every view of it. Another process that truncates the file under
            // us could end this one; checkpoint files are replaced by renaming (as our downloader does), never in place.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
            let invalid = |reason: String| ModelError::Weights {
                path: path.clone(),
                reason,
            };
            let (header_len, metadata) =
                SafeTensors::read_metadata(&map).map_err(|error| invalid(error.to_string()))?;
            let data_start = size_of::<u64>() + header_len;
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                let entry = Entry {
                    file: files.len(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    range: data_start + start..data_start + end,
                };
                if map.get(entry.range.clone()).is_none() {
                    return Err(invalid(format!("tensor `{name}` lies past the end of the file")));
                }
                if entries.insert(modern_name(&name), entry).is_some() {
                    return Err(invalid(format!("tensor `{name}` is there twice")));
                }
            }
            files.push((path.clone(), map));
        }
        Ok(Weights { files, entries })
    }

    /// The tensor of that name. Errors name the tensor: it is missing, or in a format that is not served.
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let refused = |reason: String| ModelError::Tensor {
            name: name.to_owned(),
            reason,
        };
        let entry = self.entries.get(name).ok_or_else(|| {
            let files: Vec<_> = self.files.iter().map(|(path, _)| path.display().to_string()).collect();
            refused(format!("missing in {}", files.join(", ")))
        })?;
        let dtype = Dtype::from_file(entry.dtype).ok_or_else(|| {
            refused(format!(
                "format {:?} is not supported; supported are F32, F16, BF16 and F64",
                entry.dtype
            ))
        })?;
        // `open` has checked that the range lies in the file.
        let data = self.files[entry.file].1.get(entry.range.clone()).unwrap_or_default();
        Ok(TensorView {
            dtype,
            shape: entry.shape.clone(),
            data,
        })
    }

    /// Whether a tensor of that name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// How many parameters there are: elements of all float tensors (buffers such as `position_ids` are not).
    pub fn parameters(&self) -> u64 {
        let floats = self
            .entries
            .values()
            .filter(|entry| Dtype::from_file(entry.dtype).is_some());
        floats
            .map(|entry| entry.shape.iter().map(|&size| size as u64).product::<u64>())
            .sum()
    }

    /// The formats of the float tensors and how many parameters each holds, the most common first.
    pub fn dtypes(&self) -> Vec<(Dtype, u64)> {
        let mut counts: HashMap<Dtype, u64> = HashMap::new();
        for entry in self.entries.values() {
            if let Some(dtype) = Dtype::from_file(entry.dtype) {
                *counts.entry(dtype).or_default() += entry.shape.iter().map(|&size| size as u64).product::<u64>();
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable_by_key(|&(dtype, count)| (std::cmp::Reverse(count), dtype));
        counts
    }

    /// Size of the files on disk, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|(_, map)| map.len() as u64).sum()
    }
}

/// Checkpoints that come from TensorFlow call the two parts of a layer norm gamma and beta; transformers renames them as it
/// loads, and so do we.
fn modern_name(name: &str) -> String {
    if let Some(stem) = name.strip_suffix("LayerNorm.gamma") {
        format!("{stem}LayerNorm.weight")
    } else if let Some(stem) = name.strip_suffix("LayerNorm.beta") {
        format!("{stem}LayerNorm.bias")
    } else {
        name.to_owned()
    }
}
