//! Pods that come and go.
//!
//! ```text
//!   create --> young --status, status, status--> grown --> delete
//! ```
//!
//! One operation in five creates, three write a status, one deletes the oldest. A pod has one operation at a time: who
//! works on it holds it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kevel::stdx::time::Instant;

use super::kind::{Cluster, PODS};
use super::{CONFLICT, IN_FLIGHT_MAX, POD_CREATE, POD_DELETE, POD_STATUS};
use crate::loader::{Done, Request, Source, Then};
use crate::optimistic::{self, Answer, Values};
use crate::run::Run;

const STATUSES: u8 = 3;

#[derive(Clone, Copy)]
struct Pod {
    number: u64,
    revision: i64,
    statuses: u8,
}

#[derive(Clone, Copy)]
struct Work {
    pod: Pod,
    class: usize,
    answer: Answer,
}

/// The churn.
pub struct Churn {
    values: Values,
    next: u64,
    step: u8,
    young: VecDeque<Pod>,
    grown: VecDeque<Pod>,
    /// By client.
    work: Vec<Option<Work>>,
    watchers: u64,
    run: Arc<Run>,
}

impl Churn {
    /// Begins with the pods of the cluster.
    pub fn new(cluster: Arc<Cluster>, watchers: u64, run: Arc<Run>) -> Self {
        let pod = |number| Pod { number, revision: cluster.known(PODS, number), statuses: STATUSES };
        Self {
            values: cluster.values(PODS),
            next: cluster.fresh,
            step: 0,
            young: VecDeque::new(),
            grown: (0..cluster.count(PODS)).map(pod).collect(),
            work: vec![None; IN_FLIGHT_MAX],
            watchers,
            run,
        }
    }

    fn create(&mut self) -> (Pod, usize) {
        self.next += 1;
        (Pod { number: self.next, revision: 0, statuses: 0 }, POD_CREATE)
    }

    fn choose(&mut self) -> (Pod, usize) {
        let step = self.step;
        self.step = (step + 1) % 5;
        let chosen = match step {
            0 => None,
            1..=3 => self.young.pop_front().or_else(|| self.grown.pop_back()).map(|pod| (pod, POD_STATUS)),
            _ => self.grown.pop_front().map(|pod| (pod, POD_DELETE)),
        };
        chosen.unwrap_or_else(|| self.create())
    }

    fn keep(&mut self, pod: Pod) {
        if pod.statuses < STATUSES { self.young.push_back(pod) } else { self.grown.push_back(pod) }
    }
}

impl Source for Churn {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let (pod, class) = self.choose();
        self.work[client] = Some(Work { pod, class, answer: Answer::Conflict(0) });
        let key = Cluster::key(PODS, pod.number);
        Some(if class == POD_DELETE {
            optimistic::delete(key, pod.revision)
        } else {
            optimistic::put(key, self.values.make(intended), 0, pod.revision)
        })
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        if let Some(work) = &mut self.work[client] {
            work.answer = Answer::read(message);
        }
    }

    fn on_success(&mut self, client: usize) -> Then {
        let Work { mut pod, class, answer } =
            self.work[client].take().expect("a client's answer follows its request");
        pod.revision = answer.revision();
        let class = match answer {
            Answer::Written(_) => {
                self.run.expect_events(self.watchers);
                pod.statuses += u8::from(class == POD_STATUS);
                if class != POD_DELETE {
                    self.keep(pod);
                }
                class
            }
            Answer::Conflict(_) => {
                self.keep(pod);
                CONFLICT
            }
        };
        Then::Done(Done { class, keys: 1 })
    }

    fn on_failure(&mut self, client: usize) {
        // Whether it was written is not known: the next write finds out by a conflict.
        if let Some(Work { pod, .. }) = self.work[client].take() {
            self.keep(pod);
        }
    }
}
