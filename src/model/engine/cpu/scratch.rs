//! What a thread keeps for itself in a forward pass, sized to stay in its caches.

use super::buffer::Buffer;
use super::kernels::{Format, Kernels, TILE};
use super::network::Network;
use super::panels::Tile;

/// A thread's own memory.
pub(super) struct Scratch {
    pub(super) tile: Tile,
    /// `[block][hidden]`, in the format between dense layers.
    pub(super) a: Buffer<u8>,
    /// `[block][intermediate]`, the same.
    pub(super) up: Buffer<u8>,
    /// `[block][hidden]`.
    pub(super) y: Buffer<f32>,
    /// Operands that had to be made of another format, and for u8 a scale for each row.
    pub(super) made: Buffer<u8>,
    pub(super) scales: Buffer<f32>,
    /// A head's keys and values in panels.
    pub(super) keys: Buffer<u32>,
    pub(super) values: Buffer<u32>,
    /// `[TILE][keys]`.
    pub(super) scores: Buffer<f32>,
    pub(super) powers: Buffer<u8>,
    pub(super) sums: [f32; TILE],
    /// First tokens: `[pairs][hidden]`.
    pub(super) first: Buffer<f32>,
    pub(super) query: Buffer<u8>,
    pub(super) context: Buffer<u8>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch {
            tile: Tile::new(),
            a: Buffer::empty(),
            up: Buffer::empty(),
            y: Buffer::empty(),
            made: Buffer::empty(),
            scales: Buffer::empty(),
            keys: Buffer::empty(),
            values: Buffer::empty(),
            scores: Buffer::empty(),
            powers: Buffer::empty(),
            sums: [0.0; TILE],
            first: Buffer::empty(),
            query: Buffer::empty(),
            context: Buffer::empty(),
        }
    }

    /// Room for blocks of `block` rows (a multiple of [`TILE`]) and pairs of `length` tokens.
    pub(super) fn reserve(
        &mut self,
        network: &Network,
        linear: &Kernels,
        attention: &Kernels,
        block: usize,
        length: usize,
    ) {
        let (hidden, bytes) = (network.hidden, attention.format.bytes());
        self.a.reserve(block * hidden * linear.between.bytes());
        self.up.reserve(block * network.intermediate * linear.between.bytes());
        self.y.reserve(block * hidden);
        match linear.format {
            Format::U8 => {
                self.made.reserve(block * network.intermediate.max(hidden));
                self.scales.reserve(block);
            }
            Format::Split => self.made.reserve(block * hidden * linear.format.bytes()),
            Format::F32 | Format::Bf16 => {}
        }
        let keys = length.next_multiple_of(TILE);
        let head = network.head_size();
        self.keys.reserve(attention.format.units(keys * head));
        self.values
            .reserve(attention.format.units(keys) * head.next_multiple_of(TILE));
        self.scores.reserve(TILE * keys);
        self.powers.reserve(TILE * keys * bytes);
        self.first.reserve(TILE * hidden);
        self.query.reserve(TILE * hidden * bytes);
        self.context.reserve(TILE * hidden * bytes);
    }
}
