//! How many threads a forward pass on the CPU gets.

use std::collections::BTreeSet;
use std::path::Path;

/// Physical cores that this process may use. Two threads on one core share its multipliers, so the second only makes both wait
/// for each other. The affinity mask and a container's quota are respected; where the kernel does not tell, each processor
/// counts.
pub(super) fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = siblings(Path::new("/sys/devices/system/cpu"), &allowed_processors()).len();
    if cores == 0 { allowed } else { allowed.min(cores) }
}

/// The distinct sets of processors that share a core, of those in `processors`.
fn siblings(folder: &Path, processors: &[usize]) -> BTreeSet<String> {
    let list = |processor: &usize| {
        std::fs::read_to_string(folder.join(format!("cpu{processor}/topology/thread_siblings_list"))).ok()
    };
    processors.iter().filter_map(list).collect()
}

#[cfg(target_os = "linux")]
fn allowed_processors() -> Vec<usize> {
    // SAFETY: a mask of zeros is a valid one, and the call writes no more than its size.
    let mask = unsafe {
        let mut mask: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut mask) != 0 {
            return Vec::new();
        }
        mask
    };
    // SAFETY: the index is below the size of the mask.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&index| unsafe { libc::CPU_ISSET(index, &mask) })
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn allowed_processors() -> Vec<usize> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_count_once() {
        let folder = tempfile::tempdir().expect("a folder");
        for (processor, list) in [(0, "0,4\n"), (1, "1,5\n"), (4, "0,4\n"), (5, "1,5\n")] {
            let topology = folder.path().join(format!("cpu{processor}/topology"));
            std::fs::create_dir_all(&topology).expect("a folder");
            std::fs::write(topology.join("thread_siblings_list"), list).expect("a file");
        }
        assert_eq!(siblings(folder.path(), &[0, 1, 4, 5]).len(), 2);
        assert_eq!(siblings(folder.path(), &[4, 5]).len(), 2);
        assert_eq!(siblings(folder.path(), &[0, 4]).len(), 1);
        assert_eq!(siblings(folder.path(), &[7]).len(), 0);
    }

    #[test]
    fn there_is_one_at_least() {
        let cores = physical_cores();
        assert!(cores >= 1 && cores <= std::thread::available_parallelism().expect("a count").get());
    }
}
