//! What this CPU can do, and AMX, which has to be asked for.

use std::sync::OnceLock;

use crate::choices::KernelsChoice;
use crate::model::engine::device::amx_cap;

/// Instruction sets that there are kernels for, each holding what the ones before it hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Isa {
    /// AVX2 and FMA: fp32.
    Avx2,
    /// AVX-512 (F, BW, VL): fp32.
    Avx512,
    /// With VNNI and BF16 beside it: fp32, bf16, int8.
    Avx512Bf16,
    /// With AMX's tiles: fp32, bf16, int8.
    Amx,
}

impl Isa {
    /// The best that this CPU has and the operating system lets us use; `None`: no kernels of ours run here.
    pub(super) fn best() -> Option<Isa> {
        static BEST: OnceLock<Option<Isa>> = OnceLock::new();
        *BEST.get_or_init(Isa::find)
    }

    /// The same, within what was chosen.
    pub(super) fn chosen(choice: KernelsChoice) -> Option<Isa> {
        let most = match choice {
            KernelsChoice::Auto | KernelsChoice::Amx => Isa::Amx,
            KernelsChoice::Avx512Bf16 => Isa::Avx512Bf16,
            KernelsChoice::Avx512 => Isa::Avx512,
            KernelsChoice::Avx2 => Isa::Avx2,
            KernelsChoice::Libtorch => return None,
        };
        Isa::best().map(|best| best.min(most))
    }

    /// Whether bf16 is faster than fp32 on this CPU, within what was chosen. Without AMX, Intel's multiply bf16 at half the rate
    /// of fp32 (measured); AMD's at twice. libtorch uses what the CPU has, but for AMX where that would end the process.
    pub(super) fn is_fast_at_bf16(choice: KernelsChoice) -> bool {
        let within = match choice {
            KernelsChoice::Libtorch if amx_cap().is_some() => Isa::best().map(|best| best.min(Isa::Avx512Bf16)),
            KernelsChoice::Libtorch => Isa::best(),
            choice => Isa::chosen(choice),
        };
        match within {
            Some(Isa::Amx) => true,
            Some(Isa::Avx512Bf16) => {
                std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("AuthenticAMD"))
            }
            _ => false,
        }
    }

    /// How it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Amx => "amx",
        }
    }

    fn find() -> Option<Isa> {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return None;
        }
        if !(is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq"))
        {
            return Some(Isa::Avx2);
        }
        if !(is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni")) {
            return Some(Isa::Avx512);
        }
        if amx::may_use() {
            Some(Isa::Amx)
        } else {
            Some(Isa::Avx512Bf16)
        }
    }
}

/// Eight tiles of 16 rows of 64 bytes: palette 1, the only one there is. It is not asked of the CPU, since some hypervisors
/// hide that answer (see `device::amx_cap`).
pub(super) mod amx {
    use std::arch::asm;

    /// CPUID leaf 7, subleaf 0, EDX.
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;

    /// Whether the CPU has AMX and Linux lets this process use it.
    pub(super) fn may_use() -> bool {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        let wanted = BF16 | TILE | INT8;
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & wanted == wanted && permitted() && works()
    }

    /// Tiles are 8 KiB more to save at each switch of threads, so Linux wants to be asked, once a process.
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        // SAFETY: a system call that touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }

    /// Configures the tiles and reads back whether that held.
    fn works() -> bool {
        let mut seen = Config([0; 64]);
        // SAFETY: the CPU has AMX and the operating system has agreed.
        unsafe {
            begin();
            asm!("sttilecfg [{}]", in(reg) seen.0.as_mut_ptr(), options(nostack));
            end();
        }
        seen.0 == CONFIG.0
    }

    #[repr(align(64))]
    struct Config([u8; 64]);

    static CONFIG: Config = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Config(bytes)
    };

    /// Makes the tiles of this thread ready.
    ///
    /// # Safety
    /// [`may_use`] has said yes.
    pub(in super::super) unsafe fn begin() {
        // SAFETY: by this function's own contract; the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIG.0.as_ptr(), options(nostack, readonly)) };
    }

    /// Gives them up, so that nothing has to be saved for this thread any more.
    ///
    /// # Safety
    /// As [`begin`].
    pub(in super::super) unsafe fn end() {
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_the_most_that_is_used() {
        let best = Isa::best();
        assert_eq!(Isa::chosen(KernelsChoice::Auto), best);
        assert_eq!(Isa::chosen(KernelsChoice::Libtorch), None);
        for &choice in KernelsChoice::ALL {
            assert!(Isa::chosen(choice) <= best);
            if let Some(isa) = Isa::chosen(choice)
                && choice == KernelsChoice::Avx2
            {
                assert_eq!(isa.name(), "avx2");
            }
        }
    }

    #[test]
    fn kernels_without_bf16_are_not_called_fast_at_it() {
        for choice in [KernelsChoice::Avx2, KernelsChoice::Avx512] {
            assert!(!Isa::is_fast_at_bf16(choice));
        }
        let is_fast = Isa::is_fast_at_bf16(KernelsChoice::Auto);
        assert_eq!(is_fast, Isa::is_fast_at_bf16(KernelsChoice::Amx));
        assert!(is_fast || !Isa::is_fast_at_bf16(KernelsChoice::Libtorch));
    }
}
