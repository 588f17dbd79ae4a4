//! PATTERN and SUBSET: names, and a tree over their numbers.

use datafusion::common::Result;
use datafusion::sql::sqlparser::ast::{
    Ident, MatchRecognizePattern, MatchRecognizeSymbol, RepetitionQuantifier,
};
use tidemill_core::{SqlState, did_you_mean};
use tidemill_plan::{Pattern, Repetition};

use super::{span_of_name, wrong};

/// How many variables a pattern has at most.
const VARIABLES_MAX: usize = 1000;

/// Variables and their unions.
#[derive(Default)]
pub(super) struct Names {
    names: Vec<Name>,
    /// The number of variables, which come before the unions.
    n_variables: usize,
}

struct Name {
    normalized: String,
    /// As it stands where it occurs first.
    written: String,
    variables: Vec<usize>,
}

impl Names {
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The names of the first `n` variables.
    pub fn variables(&self, n: usize) -> Vec<String> {
        self.names[..n].iter().map(|name| name.written.clone()).collect()
    }

    /// All variables.
    pub fn all(&self) -> Vec<usize> {
        (0..self.n_variables).collect()
    }

    fn variable(&mut self, ident: &Ident) -> Result<usize> {
        let normalized = normalize(ident);
        if let Some(idx) = self.names.iter().position(|name| name.normalized == normalized) {
            return Ok(idx);
        }
        let idx = self.names.len();
        if idx >= VARIABLES_MAX {
            let message = format!("a pattern of more than {VARIABLES_MAX} variables is not supported");
            return Err(wrong(SqlState::STATEMENT_TOO_COMPLEX, message, None, span_of_name(ident)));
        }
        self.names.push(Name { normalized, written: ident.value.clone(), variables: vec![idx] });
        self.n_variables = self.names.len();
        Ok(idx)
    }

    pub fn add_subset(&mut self, name: &Ident, members: &[Ident]) -> Result<()> {
        let normalized = normalize(name);
        if self.names.iter().any(|known| known.normalized == normalized) {
            let message = format!("\"{normalized}\" is defined more than once");
            let hint = "A union of SUBSET needs a name that PATTERN does not use.";
            return Err(wrong(SqlState::SYNTAX_ERROR, message, Some(hint), span_of_name(name)));
        }
        let mut variables = Vec::new();
        for member in members {
            variables.extend_from_slice(self.find(member)?);
        }
        variables.sort_unstable();
        variables.dedup();
        self.names.push(Name { normalized, written: name.value.clone(), variables });
        Ok(())
    }

    /// What a name stands for, if it is one of the pattern's.
    pub fn get(&self, ident: &Ident) -> Option<&[usize]> {
        let normalized = normalize(ident);
        let found = self.names.iter().find(|name| name.normalized == normalized)?;
        Some(&found.variables)
    }

    /// The variable of a name; nothing if it is that of a union.
    pub fn find_variable(&self, ident: &Ident) -> Result<&[usize]> {
        self.find(ident)?;
        let normalized = normalize(ident);
        let mut variables = self.names[..self.n_variables].iter();
        Ok(variables.find(|name| name.normalized == normalized).map_or(&[], |name| &name.variables))
    }

    /// What a name stands for.
    pub fn find(&self, ident: &Ident) -> Result<&[usize]> {
        self.get(ident).ok_or_else(|| {
            let known: Vec<&str> = self.names.iter().map(|name| name.normalized.as_str()).collect();
            let hint = match did_you_mean(&normalize(ident), known.iter().copied()) {
                Some(near) => format!("Perhaps you meant \"{near}\"."),
                None => format!("PATTERN and SUBSET have {}.", known.join(", ")),
            };
            let message = format!("\"{}\" is not a variable of PATTERN", ident.value);
            wrong(SqlState::UNDEFINED_TABLE, message, Some(&hint), span_of_name(ident))
        })
    }
}

fn normalize(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// The pattern, with its variables numbered in the order in which they occur.
pub(super) fn bind_pattern(pattern: &MatchRecognizePattern, names: &mut Names) -> Result<Pattern> {
    let mut all = |parts: &[MatchRecognizePattern]| {
        parts.iter().map(|part| bind_pattern(part, names)).collect::<Result<Vec<Pattern>>>()
    };
    Ok(match pattern {
        MatchRecognizePattern::Symbol(symbol) => bind_symbol(symbol, false, names)?,
        MatchRecognizePattern::Exclude(symbol) => bind_symbol(symbol, true, names)?,
        MatchRecognizePattern::Concat(parts) => Pattern::Concat(all(parts)?),
        MatchRecognizePattern::Alternation(parts) => Pattern::Alternation(all(parts)?),
        MatchRecognizePattern::Group(part) => bind_pattern(part, names)?,
        MatchRecognizePattern::Permute(_) => {
            let hint = "Write the orders as alternatives: (A B | B A).";
            return Err(wrong(
                SqlState::FEATURE_NOT_SUPPORTED,
                "PERMUTE is not supported here",
                Some(hint),
                None,
            ));
        }
        MatchRecognizePattern::Repetition(part, quantifier) => match part.as_ref() {
            // Quantifiers do not follow each other, but for this one, which then means something else.
            MatchRecognizePattern::Repetition(part, inner)
                if *quantifier == RepetitionQuantifier::AtMostOne =>
            {
                repetition(bind_pattern(part, names)?, inner, true)
            }
            part => repetition(bind_pattern(part, names)?, quantifier, false),
        },
    })
}

fn bind_symbol(symbol: &MatchRecognizeSymbol, is_excluded: bool, names: &mut Names) -> Result<Pattern> {
    Ok(match symbol {
        MatchRecognizeSymbol::Named(ident) => Pattern::Row { variable: names.variable(ident)?, is_excluded },
        MatchRecognizeSymbol::Start => Pattern::Start,
        MatchRecognizeSymbol::End => Pattern::End,
    })
}

fn repetition(pattern: Pattern, quantifier: &RepetitionQuantifier, is_reluctant: bool) -> Pattern {
    let (min, max) = match quantifier {
        RepetitionQuantifier::ZeroOrMore => (0, None),
        RepetitionQuantifier::OneOrMore => (1, None),
        RepetitionQuantifier::AtMostOne => (0, Some(1)),
        RepetitionQuantifier::Exactly(0)
        | RepetitionQuantifier::AtMost(0)
        | RepetitionQuantifier::Range(_, 0) => {
            return Pattern::Empty;
        }
        RepetitionQuantifier::Exactly(n) => (*n, Some(*n)),
        RepetitionQuantifier::AtLeast(n) => (*n, None),
        RepetitionQuantifier::AtMost(n) => (0, Some(*n)),
        RepetitionQuantifier::Range(min, max) => (*min, Some(*max)),
    };
    Pattern::Repetition(Box::new(Repetition { pattern, min, max, is_reluctant }))
}
