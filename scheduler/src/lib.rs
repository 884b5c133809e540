//! Where pending runners go, as a pure function of replicated state.
//!
//! ```text
//! View::of(State) ──> queue: who is next ──> filter: which hosts will do ──> score: which is best ──> Plan
//!                                                └──────────── the same predicates ────────────────> Explanation
//! ```
//!
//! The plan is a proposal: apply asks every predicate again against the newest state. Stated absences: no clock, no
//! randomness, no I/O, no hash maps; the same view and time give the same plan.

mod explain;
mod filter;
mod plan;
mod queue;
mod score;
mod view;

pub use explain::{Explanation, HostVerdict, explain};
pub use filter::{Reason, describe};
pub use plan::{Plan, Unplaced, plan, plan_ahead};
pub use score::Policy;
pub use view::View;
