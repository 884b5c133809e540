//! Answers of applied entries, kept while somebody on this node waits for one that the leader wrote for it. Apply is
//! deterministic, so the answer computed here is the leader's: it need not travel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stratavore_model::Reply;
use tokio::sync::oneshot;

/// Answers kept, counting each part of a batch. The leader's word comes within milliseconds of the own apply, so this
/// is a second of a cluster at full speed; whoever is later is told that the outcome is unknown.
const KEPT_MAX: usize = 65_536;

/// Shared by apply and the waiting proposals.
#[derive(Debug, Default, Clone)]
pub(crate) struct Replies {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    watchers: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    applied: u64,
    answers: VecDeque<(u64, Reply)>,
    weight: usize,
    waiting: BTreeMap<u64, oneshot::Sender<Option<Reply>>>,
}

fn weight(reply: &Reply) -> usize {
    match reply {
        Reply::Batch(parts) => 1 + parts.len(),
        _ => 1,
    }
}

impl Replies {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps answers from now on; called before the entry can exist.
    pub(crate) fn watch(&self) -> Watch {
        // Under the lock, so that it is ordered with the clearing of the last watch.
        let kept = self.lock();
        self.inner.watchers.fetch_add(1, Ordering::SeqCst);
        drop(kept);
        Watch { replies: self.clone() }
    }

    /// Whether apply has to hand its answers over.
    pub(crate) fn wanted(&self) -> bool {
        self.inner.watchers.load(Ordering::SeqCst) > 0
    }

    /// Called by apply when the state up to `applied` is visible. An index without an answer was a blank, a
    /// configuration, or came with a snapshot.
    pub(crate) fn applied(&self, applied: u64, answers: impl IntoIterator<Item = (u64, Reply)>) {
        let mut kept = self.lock();
        kept.applied = applied;
        if !self.wanted() {
            return;
        }
        for (index, reply) in answers {
            kept.weight += weight(&reply);
            kept.answers.push_back((index, reply));
        }
        let rest = kept.waiting.split_off(&(applied + 1));
        let due = std::mem::replace(&mut kept.waiting, rest);
        for (index, waiter) in due {
            // Whoever gave up waiting does not need it.
            drop(waiter.send(kept.find(index)));
        }
        while kept.weight > KEPT_MAX
            && let Some((_, oldest)) = kept.answers.pop_front()
        {
            kept.weight -= weight(&oldest);
        }
    }
}

impl Kept {
    fn find(&self, index: u64) -> Option<Reply> {
        let at = self.answers.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        self.answers.get(at).map(|(_, reply)| reply.clone())
    }
}

/// While it lives, answers are kept.
pub(crate) struct Watch {
    replies: Replies,
}

impl Watch {
    /// Waits until `index` is applied here, and returns its answer; none when it is not known any more.
    pub(crate) async fn of(&self, index: u64) -> Option<Reply> {
        let waiter = {
            let mut kept = self.replies.lock();
            if kept.applied >= index {
                return kept.find(index);
            }
            let (sender, waiter) = oneshot::channel();
            kept.waiting.insert(index, sender);
            waiter
        };
        // The sender goes only with the store.
        waiter.await.ok().flatten()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut kept = self.replies.lock();
        if self.replies.inner.watchers.fetch_sub(1, Ordering::SeqCst) == 1 {
            kept.answers.clear();
            kept.waiting.clear();
            kept.weight = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(index: u64) -> (u64, Reply) {
        (index, Reply::Node(stratavore_model::NodeId(index)))
    }

    #[tokio::test]
    async fn an_answer_is_found_before_and_after_it_is_applied() {
        let replies = Replies::default();
        replies.applied(4, [answer(4)]);
        let watch = replies.watch();
        replies.applied(6, [answer(5), answer(6)]);
        assert_eq!(watch.of(5).await, Some(answer(5).1));
        assert_eq!(watch.of(4).await, None, "applied before anybody watched");
        let waiting = tokio::spawn(async move { (watch.of(9).await, watch.of(8).await) });
        tokio::task::yield_now().await;
        replies.applied(8, [answer(8)]);
        replies.applied(9, [answer(9)]);
        assert_eq!(waiting.await.unwrap(), (Some(answer(9).1), Some(answer(8).1)));
        assert!(!replies.wanted());
        assert!(replies.lock().answers.is_empty());
    }

    #[tokio::test]
    async fn a_jump_over_the_index_answers_that_nothing_is_known() {
        let replies = Replies::default();
        let watch = replies.watch();
        let waiting = tokio::spawn(async move { watch.of(7).await });
        tokio::task::yield_now().await;
        replies.applied(20, []);
        assert_eq!(waiting.await.unwrap(), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let replies = Replies::default();
        let _watch = replies.watch();
        for index in 0..(KEPT_MAX as u64 + 100) {
            replies.applied(index, [answer(index)]);
        }
        assert_eq!(replies.lock().answers.len(), KEPT_MAX);
    }
}
