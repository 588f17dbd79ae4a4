//! What EXPLAIN says of a plan: for each node what its output is like, what a change costs, what it keeps.

use std::fmt;

/// A node of an incremental plan, explained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExplainedNode {
    /// `Aggregate`, `Filter`, …
    pub kind: String,
    /// The node in one line.
    pub display: String,
    /// No row of its output is ever retracted.
    pub is_append_only: bool,
    /// Sets of output columns of which no two rows agree in all; the empty set says: at most one row.
    pub unique_keys: Vec<Vec<String>>,
    pub cost: Cost,
    pub state: Option<ExplainedState>,
    /// How many rows its output holds in the long run.
    pub rows: Growth,
    /// Names the operator's state and its measurements; empty for a node without state.
    pub id: String,
    /// The relation that an input reads.
    pub relation: Option<String>,
    pub inputs: Vec<ExplainedNode>,
}

/// What an operator keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedState {
    /// By which columns of its input state is looked up; none where all of it is one entry.
    pub key: Vec<String>,
    /// What keeps it from growing for ever, or how it grows.
    pub growth: Growth,
    /// What would bound it, as far as that can be said.
    pub remedy: Option<String>,
}

/// What a changed row costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cost {
    /// In proportion to the changed rows, whatever else there is.
    #[default]
    Linear,
    /// A look-up for each touched key, and what the rows of that key give.
    PerKey,
    /// Reading as much of each touched partition as its result needs.
    PerPartition,
    /// All rows of each touched key are evaluated again.
    Recompute,
}

impl Cost {
    pub fn name(self) -> &'static str {
        match self {
            Cost::Linear => "linear",
            Cost::PerKey => "per key",
            Cost::PerPartition => "per partition",
            Cost::Recompute => "recompute",
        }
    }
}

/// How many rows there will be. In the order of what is worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Growth {
    /// No more than tables and sources that end hold, or a number that the query says.
    #[default]
    Finite,
    /// Rows leave once the watermark has passed them.
    Watermark,
    /// Rows leave with the next emission.
    Emission,
    /// Rows leave after a time to live.
    Ttl,
    /// Rows leave as the time that a filter compares with goes on.
    TemporalFilter,
    /// One entry for each value of a key, for ever: few or many, which nobody can know beforehand.
    PerKey,
    /// In proportion to all rows that ever come.
    PerRow,
}

impl Growth {
    pub fn is_bounded(self) -> bool {
        !matches!(self, Growth::PerKey | Growth::PerRow)
    }

    /// The word for the bound.
    pub fn bound(self) -> &'static str {
        match self {
            Growth::Finite => "finite",
            Growth::Watermark => "watermark",
            Growth::Emission => "emission",
            Growth::Ttl => "ttl",
            Growth::TemporalFilter => "temporal filter",
            Growth::PerKey | Growth::PerRow => "UNBOUNDED",
        }
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Growth::PerKey => f.write_str("UNBOUNDED, an entry for each new key"),
            Growth::PerRow => f.write_str("UNBOUNDED, grows with every row"),
            bounded => f.write_str(bounded.bound()),
        }
    }
}

impl ExplainedNode {
    /// What holds of the node, in one line.
    pub fn properties(&self) -> String {
        let changes = if self.is_append_only { "append-only" } else { "retracting" };
        let keys = match self.unique_keys.is_empty() {
            true => "no unique key".to_owned(),
            false => format!(
                "unique {}",
                self.unique_keys.iter().map(|key| list(key)).collect::<Vec<_>>().join(" ")
            ),
        };
        let state = match &self.state {
            None => "no state".to_owned(),
            Some(state) => format!("state by {}, {}", list(&state.key), state.growth),
        };
        format!("{changes}; {keys}; cost {}; {state}", self.cost.name())
    }

    /// This node and all below it, each behind its depth.
    pub fn walk(&self) -> Vec<(usize, &ExplainedNode)> {
        let mut nodes = Vec::new();
        // A loop: plans can be deep.
        let mut todo = vec![(0, self)];
        while let Some((depth, node)) = todo.pop() {
            nodes.push((depth, node));
            todo.extend(node.inputs.iter().rev().map(|input| (depth + 1, input)));
        }
        nodes
    }

    /// The relations at the end of the ways down, each once.
    pub fn relations(&self) -> Vec<&str> {
        let mut relations: Vec<&str> = Vec::new();
        for (_, node) in self.walk() {
            if let Some(relation) = &node.relation
                && !relations.contains(&relation.as_str())
            {
                relations.push(relation);
            }
        }
        relations
    }
}

fn list(names: &[String]) -> String {
    format!("({})", names.join(", "))
}
