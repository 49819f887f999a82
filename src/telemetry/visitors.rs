//! The connections that health has open: bounded, and never in the way of the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;

/// Open connections, the oldest first. Every new one is let in; past the limit the oldest that has not asked is closed for it,
/// or else the oldest.
#[derive(Debug)]
pub(super) struct Visitors {
    max: usize,
    open: Vec<Visitor>,
}

#[derive(Debug)]
struct Visitor {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

impl Visitors {
    /// No connections, and so many at most.
    pub(super) fn new(max: usize) -> Visitors {
        Visitors {
            max,
            open: Vec::with_capacity(max),
        }
    }

    /// Makes room for one more, which is then to be [entered](Self::enter).
    pub(super) fn make_room(&mut self) {
        self.open.retain(|visitor| !visitor.task.is_finished());
        while self.open.len() >= self.max {
            self.close_one();
        }
    }

    /// Closes the connection that has to go first; false if there is none.
    pub(super) fn close_one(&mut self) -> bool {
        self.open.retain(|visitor| !visitor.task.is_finished());
        if self.open.is_empty() {
            return false;
        }
        let not_asked = |visitor: &Visitor| !visitor.has_asked.load(Ordering::Relaxed);
        let first = self.open.iter().position(not_asked).unwrap_or(0);
        self.open.remove(first).task.abort();
        true
    }

    /// A connection, served by `task`, which sets `has_asked` once a request is there.
    pub(super) fn enter(&mut self, task: AbortHandle, has_asked: Arc<AtomicBool>) {
        self.open.push(Visitor { task, has_asked });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_has_not_asked_gives_way() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut visitors = Visitors::new(3);
            let mut tasks = Vec::new();
            let mut enter = |visitors: &mut Visitors, asked: bool| {
                visitors.make_room();
                let task = tokio::spawn(std::future::pending::<()>());
                visitors.enter(task.abort_handle(), Arc::new(AtomicBool::new(asked)));
                tasks.push(task);
            };
            for asked in [true, false, false] {
                enter(&mut visitors, asked);
            }
            enter(&mut visitors, true);
            enter(&mut visitors, true);
            // All three have asked now: the oldest goes.
            enter(&mut visitors, false);
            assert_eq!(visitors.open.len(), 3);
            tokio::task::yield_now().await;
            let ended: Vec<bool> = tasks.iter().map(|task| task.is_finished()).collect();
            assert_eq!(ended, [true, true, true, false, false, false]);
            assert!(visitors.close_one());
            tokio::task::yield_now().await;
            assert!(tasks[5].is_finished() && !tasks[3].is_finished());
            // What has ended by itself needs nobody to give way.
            tasks[3].abort();
            tokio::task::yield_now().await;
            visitors.make_room();
            assert_eq!(visitors.open.len(), 1);
            assert!(!tasks[4].is_finished());
            assert!(visitors.close_one() && !visitors.close_one());
        });
    }
}
