//! The forward pass on x86-64 CPUs, by kernels of our own: AMX, AVX-512 or AVX2, whichever this CPU has.
//!
//! libtorch's operators each walk through memory once, want one padded shape, and wait for all threads at their end. Here
//! weights are packed once, what follows a product is done while its outcome is in the first-level cache, attention takes
//! every pair at its own length, and threads meet twice a layer. docs/benchmarks/log.md has what each of these brought.

mod amx;
mod avx2;
mod avx512;
mod buffer;
mod columns;
mod crew;
mod formats;
mod isa;
mod kernels;
mod macros;
mod network;
mod panels;
mod pass;
mod rows;
mod scratch;
mod simd;
mod steps;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use isa::Isa;
use macros::row_kernels;

use self::buffer::Buffer;
use self::crew::Crew;
use self::kernels::{Format, Kernels, TILE};
use self::network::Network;
use self::pass::{Pair, Pass, Shared};
use self::scratch::Scratch;
use super::EngineError;
use super::KernelsChoice;
use super::device::Precision;
use super::layout::Layout;
use crate::model::ModelError;
use crate::model::spec::ModelSpec;
use crate::model::weights::Weights;

/// What the dense layers' operands are made of; `None`: these kernels do not serve it. `tiled`: whether operands may be in tiles.
fn format(precision: Precision, isa: Isa, tiled: bool) -> Option<Format> {
    match precision {
        // Half as fast again as AVX-512 over a whole pass, and as exact.
        Precision::Fp32 if isa == Isa::Amx && tiled => Some(Format::Split),
        Precision::Fp32 => Some(Format::F32),
        Precision::Bf16 => Some(Format::Bf16),
        Precision::Int8 => Some(Format::U8),
        Precision::Fp16 => None,
    }
}

/// Whether bf16 is faster than fp32 here, within the kernels that were chosen.
pub(super) fn is_fast_at_bf16(kernels: KernelsChoice) -> bool {
    Isa::is_fast_at_bf16(kernels)
}

/// Rows in a block at most, and what a block's intermediate values may take of the second-level cache.
const BLOCK_ROWS_MAX: usize = 256;
const BLOCK_BYTES_MAX: usize = 2 << 20;

/// The model on this CPU.
pub(super) struct Native {
    network: Network,
    linear: Kernels,
    attention: Kernels,
    exact: Kernels,
    crew: Crew,
    shared: Shared,
    scratch: Vec<Mutex<Scratch>>,
}

impl Native {
    /// Reads and packs the weights, and starts the threads. `None` where the kernels chosen, or this CPU, cannot
    /// compute this model in this precision.
    pub(super) fn load(
        spec: &ModelSpec,
        weights: &Weights,
        precision: Precision,
        kernels: KernelsChoice,
        threads: usize,
    ) -> Result<Option<Native>, ModelError> {
        let Some(isa) = Isa::chosen(kernels) else {
            return Ok(None);
        };
        let tiled = Network::fits_tiles(spec);
        let Some(dense) = format(precision, isa, tiled) else {
            return Ok(None);
        };
        let inside = match dense {
            Format::F32 | Format::Split => Format::F32,
            Format::Bf16 | Format::U8 => Format::Bf16,
        };
        let (Some(linear), Some(attention), Some(exact), true) = (
            Kernels::choose(isa, dense, tiled),
            Kernels::choose(isa, inside, false),
            Kernels::choose(isa, Format::F32, false),
            Network::fits(spec),
        ) else {
            return Ok(None);
        };
        let network = Network::load(spec, weights, &linear, &attention)?;
        let crew = Crew::new(threads).map_err(|error| ModelError::Engine {
            reason: format!("cannot start {threads} threads: {error}"),
        })?;
        Ok(Some(Native {
            scratch: (0..crew.members()).map(|_| Mutex::new(Scratch::new())).collect(),
            shared: Shared {
                x: Buffer::empty(),
                qkv: Buffer::empty(),
                context: Buffer::empty(),
                up: Buffer::empty(),
                query: Buffer::empty(),
                logits: Buffer::empty(),
                taken: (0..Pass::phases(&network)).map(|_| AtomicUsize::new(0)).collect(),
            },
            network,
            linear,
            attention,
            exact,
            crew,
        }))
    }

    /// The instruction set that is used.
    pub(super) fn kernels(&self) -> &'static str {
        self.linear.isa.name()
    }

    /// Logits in layout order, `[pairs]`.
    pub(super) fn forward(&mut self, layout: &Layout) -> Result<Vec<f32>, EngineError> {
        self.check(layout)?;
        let tokens = layout.tokens();
        let pairs: Vec<Pair> = layout.groups.iter().flat_map(pairs_of).collect();
        let members = self.crew.members();
        let by_columns = Pass::wants_columns(tokens, pairs.len(), members);
        let tiles = tokens.div_ceil(TILE);
        let blocks = if by_columns { 1 } else { self.blocks(tiles) };
        let block = tiles.div_ceil(blocks) * TILE;
        let (hidden, bytes) = (self.network.hidden, self.attention.format.bytes());
        // A tile of idle rows behind the last: tiles may begin at any row.
        let rows = tokens.next_multiple_of(TILE) + TILE;
        self.shared.x.reserve(rows * hidden);
        self.shared.qkv.reserve(rows * 3 * hidden * bytes);
        self.shared.context.reserve(rows * hidden * bytes);
        self.shared.logits.reserve(pairs.len());
        if by_columns {
            self.shared
                .up
                .reserve(rows * self.network.intermediate * self.linear.between.bytes());
            self.shared.query.reserve(TILE * hidden * bytes);
        }
        for taken in &self.shared.taken {
            taken.store(0, Ordering::Relaxed);
        }
        let length = pairs.iter().map(|pair| pair.length).max().unwrap_or_default();
        let pass = Pass {
            network: &self.network,
            linear: &self.linear,
            attention: &self.attention,
            exact: &self.exact,
            ids: &layout.ids,
            positions: &layout.positions,
            types: &layout.types,
            pairs: &pairs,
            shared: &self.shared,
            tokens,
            blocks,
            members,
            by_columns,
        };
        let scratch = &self.scratch;
        self.crew.run(&|member| {
            // Its own, so never waited for; left by a panic, it is written anew.
            let mut scratch = match scratch[member.index].lock() {
                Ok(scratch) => scratch,
                Err(poisoned) => poisoned.into_inner(),
            };
            scratch.reserve(pass.network, pass.linear, pass.attention, block, length);
            Kernels::with_tiles(pass.linear.isa, || pass.run(member, &mut scratch));
        });
        Ok(self.shared.logits.slice()[..pairs.len()].to_vec())
    }

    /// Blocks of rows that threads take: each small enough to stay in a thread's cache, and as many for each thread, so that all
    /// end together.
    fn blocks(&self, tiles: usize) -> usize {
        let row_bytes = self.network.intermediate * self.linear.between.bytes() + 2 * self.network.hidden * 4;
        let most = (BLOCK_BYTES_MAX / row_bytes).clamp(TILE, BLOCK_ROWS_MAX) / TILE;
        let members = self.crew.members();
        (members * tiles.div_ceil(members * most)).min(tiles)
    }

    /// A token without an embedding is an error here and not a read of something else.
    fn check(&self, layout: &Layout) -> Result<(), EngineError> {
        let columns = [
            ("token id", &layout.ids, self.network.words.rows),
            ("position", &layout.positions, self.network.positions.rows),
            ("token type", &layout.types, self.network.types.rows),
        ];
        for (what, values, rows) in columns {
            if let Some(value) = values.iter().find(|&&value| value < 0 || value as usize >= rows) {
                return Err(EngineError::Failed(format!("{what} {value} is not below {rows}")));
            }
        }
        Ok(())
    }
}

fn pairs_of(group: &super::layout::Group) -> impl Iterator<Item = Pair> {
    let group = *group;
    (0..group.pairs).map(move |index| Pair {
        start: group.token_start + index * group.length,
        length: group.length,
    })
}
