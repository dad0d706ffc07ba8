//! What the status of every kind has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BackendState, CallerState, CallerStatus, Condition, ContainerHealthCheckState, ContainerHealthCheckStatus,
    ExpertState, ExpertStatus, HostAgentState, HostAgentStatus, LLMBackendStatus, NotifierState, NotifierStatus,
    TaskQueueState, TaskQueueStatus, TaskScheduleState, TaskScheduleStatus, WorkerPoolState, WorkerPoolStatus,
};

/// The fields that every status has; `S` is the state of the kind.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", bound(deserialize = "S: Deserialize<'de>"))]
pub struct StatusBase<S> {
    /// The generation that this status was computed from; -1 before the first pass.
    #[serde(default = "unobserved")]
    #[schemars(range(min = -1))]
    pub observed_generation: i64,
    /// The state in one word.
    pub state: Option<S>,
    /// Ready, Reconciling and Stalled as kstatus reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The last value of the reconcile-requested-at annotation that was acted on.
    #[schemars(length(max = 253))]
    pub last_handled_reconcile_at: Option<String>,
}

impl<S> Default for StatusBase<S> {
    fn default() -> Self {
        Self { observed_generation: unobserved(), state: None, conditions: Vec::new(), last_handled_reconcile_at: None }
    }
}

/// An object without `observedGeneration` looks finished to kstatus.
fn unobserved() -> i64 {
    -1
}

/// The status of any kind.
pub trait ResourceStatus: Clone + Default + Serialize + Send + Sync + 'static {
    type State: Copy + PartialEq + Into<&'static str> + Send + Sync;

    fn base(&self) -> &StatusBase<Self::State>;
    fn base_mut(&mut self) -> &mut StatusBase<Self::State>;
    /// Blanks what changes by itself: such a field is written only along with another change.
    fn forget_counts(&mut self) {}
}

macro_rules! resource_status {
    ($status:ty, $state:ty $(, |$it:ident| $forget:expr)?) => {
        impl ResourceStatus for $status {
            type State = $state;
            fn base(&self) -> &StatusBase<$state> {
                &self.base
            }
            fn base_mut(&mut self) -> &mut StatusBase<$state> {
                &mut self.base
            }
            $(fn forget_counts(&mut self) {
                let $it = self;
                $forget;
            })?
        }
    };
}

resource_status!(CallerStatus, CallerState, |it| (it.calls_today, it.tokens_today) = (None, None));
resource_status!(NotifierStatus, NotifierState, |it| it.told = None);
resource_status!(ContainerHealthCheckStatus, ContainerHealthCheckState);
resource_status!(ExpertStatus, ExpertState);
// A skew that grows by some seconds is no change.
resource_status!(HostAgentStatus, HostAgentState, |it| it.clock_skew_seconds =
    it.clock_skew_seconds.map(|seconds| seconds / 10));
resource_status!(LLMBackendStatus, BackendState, |it| {
    it.last_served_time = None;
    it.recovery.iter_mut().for_each(|recovery| recovery.next_attempt_time = None);
});
resource_status!(TaskQueueStatus, TaskQueueState, |it| (it.pending, it.in_progress) = (None, None));
resource_status!(TaskScheduleStatus, TaskScheduleState);
resource_status!(WorkerPoolStatus, WorkerPoolState, |it| (it.effective_concurrency, it.limited_by) = (None, None));
