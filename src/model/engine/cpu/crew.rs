//! Threads that go through a forward pass together.
//!
//! A forward pass is a dozen short phases, so its threads meet at a barrier that spins for some microseconds before it
//! gives the core away, and they sleep between passes. A pool for tasks in general wakes and sleeps at each phase.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Looks before a waiting thread gives its core away: some tens of microseconds.
const SPINS: usize = 2_000;

/// What a member of the crew is told.
pub(super) struct Member<'a> {
    /// Its number, from 0.
    pub(super) index: usize,
    shared: &'a Shared,
}

impl Member<'_> {
    /// Waits until all members have come here.
    pub(super) fn meet(&self) {
        let shared = self.shared;
        if shared.members == 1 {
            return;
        }
        let generation = shared.generation.load(Ordering::Acquire);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.members {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.generation.fetch_add(1, Ordering::AcqRel);
            return;
        }
        let mut spins = 0;
        while shared.generation.load(Ordering::Acquire) == generation {
            if shared.broken.load(Ordering::Acquire) {
                panic!("another thread of the forward pass has panicked");
            }
            relax(&mut spins);
        }
    }
}

fn relax(spins: &mut usize) {
    if *spins < SPINS {
        *spins += 1;
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// The work of a pass, as every member sees it.
type Work = dyn Fn(&Member<'_>) + Sync;

struct Shared {
    members: usize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    broken: AtomicBool,
    /// Members that have ended the present pass, besides the caller.
    ended: AtomicUsize,
    order: Mutex<Order>,
    /// Counts passes; read without the lock by members that spin.
    pass: AtomicUsize,
    called: Condvar,
}

struct Order {
    work: Option<*const Work>,
    over: bool,
}

// SAFETY: the pointer is only used while `Crew::run` waits for all members, so what it points to is alive and, being
// `Sync`, may be used by all of them.
unsafe impl Send for Order {}

/// Some threads, of which the caller is one.
pub(super) struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// `members`: threads in all, the caller's own included.
    pub(super) fn new(members: usize) -> std::io::Result<Crew> {
        let members = members.max(1);
        let shared = Arc::new(Shared {
            members,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            ended: AtomicUsize::new(0),
            order: Mutex::new(Order {
                work: None,
                over: false,
            }),
            pass: AtomicUsize::new(0),
            called: Condvar::new(),
        });
        let mut crew = Crew {
            shared: shared.clone(),
            threads: Vec::new(),
        };
        for index in 1..members {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("forward-{index}"));
            crew.threads.push(thread.spawn(move || serve(&shared, index))?);
        }
        Ok(crew)
    }

    pub(super) fn members(&self) -> usize {
        self.shared.members
    }

    /// Has every member do `work`, and returns when all have. A panic of one ends the others at their next meeting, and
    /// comes out here; the crew stays usable.
    pub(super) fn run(&mut self, work: &(dyn Fn(&Member<'_>) + Sync)) {
        let shared = &*self.shared;
        if shared.members > 1 {
            shared.ended.store(0, Ordering::Relaxed);
            // SAFETY: only the lifetime is changed; this function does not return before nobody uses it any more.
            let work: *const Work = unsafe { std::mem::transmute::<*const (dyn Fn(&Member<'_>) + Sync), *const Work>(work) };
            let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
            order.work = Some(work);
            shared.pass.fetch_add(1, Ordering::Release);
            drop(order);
            shared.called.notify_all();
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&Member { index: 0, shared })));
        if outcome.is_err() {
            shared.broken.store(true, Ordering::Release);
        }
        let mut spins = 0;
        while shared.ended.load(Ordering::Acquire) + 1 < shared.members {
            relax(&mut spins);
        }
        let broken = shared.broken.swap(false, Ordering::AcqRel);
        shared.arrived.store(0, Ordering::Relaxed);
        match outcome {
            Err(panic) => resume_unwind(panic),
            Ok(()) if broken => panic!("a thread of the forward pass has panicked"),
            Ok(()) => {}
        }
    }
}

fn serve(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        // A batch often follows at once, and waking a thread costs more than looking for a while.
        let mut spins = 0;
        while shared.pass.load(Ordering::Acquire) == seen && spins < SPINS {
            relax(&mut spins);
        }
        let work = {
            let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
            while shared.pass.load(Ordering::Relaxed) == seen && !order.over {
                order = shared.called.wait(order).unwrap_or_else(PoisonError::into_inner);
            }
            if order.over {
                return;
            }
            seen = shared.pass.load(Ordering::Relaxed);
            order.work
        };
        let Some(work) = work else { continue };
        // SAFETY: `Crew::run` keeps it alive until `ended` has counted this member.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*work)(&Member { index, shared }) }));
        if outcome.is_err() {
            shared.broken.store(true, Ordering::Release);
        }
        shared.ended.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.order.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.shared.called.notify_all();
        for thread in self.threads.drain(..) {
            // It has caught its own panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_go_from_phase_to_phase_together() {
        for members in [1, 2, 5] {
            let mut crew = Crew::new(members).expect("threads");
            assert_eq!(crew.members(), members);
            for _ in 0..50 {
                let counts: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
                crew.run(&|member| {
                    for (phase, count) in counts.iter().enumerate() {
                        count.fetch_add(1, Ordering::SeqCst);
                        member.meet();
                        assert_eq!(counts[phase].load(Ordering::SeqCst), members);
                    }
                });
            }
        }
    }

    #[test]
    fn a_panic_ends_the_pass_and_not_the_crew() {
        let mut crew = Crew::new(3).expect("threads");
        for culprit in 0..3 {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                crew.run(&|member| {
                    assert_ne!(member.index, culprit, "made up");
                    member.meet();
                });
            }));
            assert!(panicked.is_err());
            let count = AtomicUsize::new(0);
            crew.run(&|member| {
                member.meet();
                count.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(count.load(Ordering::SeqCst), 3);
        }
    }
}
