//! Room: engines, CPU. Which pairs of a row are not negatives, without a table of all pairs:
//! columns grouped by label and by id, O(n + m) memory.

use std::ops::Range;

use crate::engine::{NO_POSITIVE, Positives, Problem};
use crate::matrix::Host;
use crate::{Error, Result};

/// Columns grouped by key, and for each row the group with the row's key.
struct Groups {
    columns: Vec<u32>,
    rows: Vec<Range<u32>>,
}

impl Groups {
    fn new(rows: &[u32], cols: &[u32]) -> Self {
        let mut columns: Vec<u32> = (0..cols.len() as u32).collect();
        columns.sort_by_key(|&j| cols[j as usize]);
        let group = |key: &u32| {
            let start = columns.partition_point(|&j| cols[j as usize] < *key);
            let len = columns[start..].partition_point(|&j| cols[j as usize] == *key);
            start as u32..(start + len) as u32
        };
        Self { rows: rows.iter().map(group).collect(), columns }
    }

    /// The columns with row i's key, ascending.
    fn of(&self, i: usize) -> &[u32] {
        let range = &self.rows[i];
        &self.columns[range.start as usize..range.end as usize]
    }
}

enum Matches<'a> {
    Diagonal,
    Index(&'a [u32]),
    Labels(Groups),
}

/// Positive and excluded pairs of a problem.
pub(crate) struct Pairs<'a> {
    matches: Matches<'a>,
    ids: Option<Groups>,
    shared: bool,
    cols: usize,
}

impl<'a> Pairs<'a> {
    /// # Errors
    /// If an explicit index is out of range, or no pair is positive.
    pub fn new<T: 'static>(problem: &Problem<'a, Host, T>) -> Result<Self> {
        let (rows, cols) = (problem.x.rows, problem.candidates().rows);
        let shared = problem.shared();
        let matches = match problem.positives {
            Positives::Diagonal => Matches::Diagonal,
            Positives::Index(index) => {
                check_index(index, cols, shared)?;
                Matches::Index(index)
            }
            Positives::Labels { rows, cols } => Matches::Labels(Groups::new(rows, cols)),
        };
        let ids = problem.ids.map(|ids| Groups::new(ids.rows, ids.cols));
        let pairs = Self { matches, ids, shared, cols };
        if (0..rows).all(|i| pairs.positive_count(i) == 0) {
            let (argument, given) = match pairs.matches {
                Matches::Labels(_) => ("labels", "no label that two different embeddings share"),
                _ => ("positives", "no row with a positive"),
            };
            return Err(Error::argument(argument, given, "at least one positive pair"));
        }
        Ok(pairs)
    }

    /// The one positive a row can have, where positives are not given by labels.
    pub fn single(&self, i: usize) -> Option<usize> {
        match &self.matches {
            Matches::Diagonal => (i < self.cols).then_some(i),
            Matches::Index(index) => (index[i] != NO_POSITIVE).then_some(index[i] as usize),
            Matches::Labels(_) => None,
        }
    }

    /// Whether a row has at most one positive, to be had from [`single`](Self::single).
    pub fn are_single(&self) -> bool {
        !matches!(self.matches, Matches::Labels(_))
    }

    /// Calls `visit` with every positive column of row i, ascending.
    pub fn for_each_positive(&self, i: usize, mut visit: impl FnMut(usize)) {
        if let Matches::Labels(groups) = &self.matches {
            groups
                .of(i)
                .iter()
                .map(|&j| j as usize)
                .filter(|&j| !self.is_self(i, j))
                .for_each(visit);
        } else if let Some(j) = self.single(i) {
            visit(j);
        }
    }

    /// Calls `visit` with every column of row i that is neither positive nor negative. A positive
    /// may be among them: mask these first, then treat the positives.
    pub fn for_each_excluded(&self, i: usize, mut visit: impl FnMut(usize)) {
        if self.shared {
            visit(i);
        }
        if let Some(groups) = &self.ids {
            groups.of(i).iter().for_each(|&j| visit(j as usize));
        }
    }

    fn is_self(&self, i: usize, j: usize) -> bool {
        self.shared && i == j
    }

    pub fn positive_count(&self, i: usize) -> usize {
        match &self.matches {
            Matches::Labels(groups) => {
                // In the shared case a row's own column has its label too, if labels agree there.
                let group = groups.of(i);
                group.len() - usize::from(self.shared && group.binary_search(&(i as u32)).is_ok())
            }
            _ => usize::from(self.single(i).is_some()),
        }
    }
}

fn check_index(index: &[u32], cols: usize, shared: bool) -> Result<()> {
    for (i, &j) in index.iter().enumerate() {
        if j == NO_POSITIVE {
            continue;
        }
        if j as usize >= cols {
            return Err(Error::argument(
                "positives",
                format!("index {j} in row {i}"),
                format!("an index below m = {cols}, or NO_POSITIVE"),
            ));
        }
        if shared && j as usize == i {
            return Err(Error::argument(
                "positives",
                format!("index {j} in row {i}: the self-pair of a shared set"),
                "another row, or NO_POSITIVE",
            ));
        }
    }
    Ok(())
}
