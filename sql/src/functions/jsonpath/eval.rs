//! What a path gives for a document.
//!
//! An evaluation follows `jsonpath_exec.c`. In lax mode (the default) an array stands for its elements where a member, a
//! method or an operand is wanted, anything else for an array of itself where a subscript is, and what is not there is
//! nothing. A predicate is true, false or unknown, and an error within it makes it unknown.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Number, Value};
use tidemill_core::SqlState;

use super::path::{Arithmetic, Comparison, Expr, Level, Method, Path, Step};
use crate::error::Error;

type Result<T> = std::result::Result<T, Error>;

const SUBSCRIPT: SqlState = SqlState("22033");
const NON_NUMERIC: SqlState = SqlState("22036");
pub(super) const SINGLETON: SqlState = SqlState("22038");
const ARRAY_NOT_FOUND: SqlState = SqlState("22039");
const MEMBER_NOT_FOUND: SqlState = SqlState("2203A");
const NUMBER_NOT_FOUND: SqlState = SqlState("2203B");
const OBJECT_NOT_FOUND: SqlState = SqlState("2203C");

type Item<'a> = Cow<'a, Value>;

/// The items that a path gives.
pub(super) fn items<'a>(path: &'a Path, root: &'a Value, variables: &'a Value) -> Result<Vec<Item<'a>>> {
    let context = Context { lax: path.lax, root, variables, current: None, length: None };
    context.expr(&path.expr)
}

#[derive(Clone, Copy)]
struct Context<'a> {
    lax: bool,
    root: &'a Value,
    variables: &'a Value,
    /// `@`
    current: Option<&'a Value>,
    /// Of the array whose subscripts are computed.
    length: Option<usize>,
}

impl<'a> Context<'a> {
    fn expr(&self, expr: &'a Expr) -> Result<Vec<Item<'a>>> {
        if expr.is_predicate() {
            let truth = self.predicate(expr).map_or(Value::Null, Value::Bool);
            return Ok(vec![Cow::Owned(truth)]);
        }
        let one = |value: &'a Value| Ok(vec![Cow::Borrowed(value)]);
        match expr {
            Expr::Root => one(self.root),
            Expr::Current => one(self.current.unwrap_or(self.root)),
            Expr::Last => {
                let last = self.length.unwrap_or(0) as i64 - 1;
                Ok(vec![Cow::Owned(last.into())])
            }
            Expr::Variable(name) => match self.variables.get(name) {
                Some(value) => one(value),
                None => Err(Error::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("could not find jsonpath variable \"{name}\""),
                )),
            },
            Expr::Literal(value) => one(value),
            Expr::Access(from, steps) => {
                let mut found = Vec::new();
                for item in self.expr(from)? {
                    self.steps(steps, item, self.lax, &mut found)?;
                }
                Ok(found)
            }
            Expr::Sign(negative, operand) => {
                let mut results = Vec::new();
                for item in self.operand(operand)? {
                    let Value::Number(number) = item.as_ref() else {
                        let sign = if *negative { '-' } else { '+' };
                        return Err(Error::new(
                            NUMBER_NOT_FOUND,
                            format!("operand of unary jsonpath operator {sign} is not a numeric value"),
                        ));
                    };
                    results.push(match negative {
                        true => Cow::Owned(Value::Number(negated(number)?)),
                        false => item,
                    });
                }
                Ok(results)
            }
            Expr::Arithmetic(operator, left, right) => {
                let number = |side: &str, operand: &'a Expr| {
                    let items = self.operand(operand)?;
                    match &items[..] {
                        [item] => match item.as_ref() {
                            Value::Number(number) => Ok(number.clone()),
                            _ => Err(not_a_number(side, *operator)),
                        },
                        _ => Err(not_a_number(side, *operator)),
                    }
                };
                let (left, right) = (number("left", left)?, number("right", right)?);
                Ok(vec![Cow::Owned(Value::Number(computed(*operator, &left, &right)?))])
            }
            _ => unreachable!("what is left are predicates"),
        }
    }

    /// The items of an expression, in lax mode those of the arrays among them.
    fn operand(&self, expr: &'a Expr) -> Result<Vec<Item<'a>>> {
        let items = self.expr(expr)?;
        if !self.lax {
            return Ok(items);
        }
        let mut elements = Vec::with_capacity(items.len());
        items.into_iter().for_each(|item| elements_of(item, &mut elements));
        Ok(elements)
    }

    /// Takes the steps from an item. `unwraps`: the first may go through the elements of an array.
    fn steps(
        &self,
        steps: &'a [Step],
        item: Item<'a>,
        unwraps: bool,
        found: &mut Vec<Item<'a>>,
    ) -> Result<()> {
        let Some((step, rest)) = steps.split_first() else {
            found.push(item);
            return Ok(());
        };
        let passes_through = match step {
            Step::Key(_) | Step::AnyKey | Step::Filter(_) => true,
            Step::Method(method) => !matches!(method, Method::Type | Method::Size),
            _ => false,
        };
        if passes_through && unwraps && item.is_array() {
            let mut elements = Vec::new();
            elements_of(item, &mut elements);
            return elements.into_iter().try_for_each(|element| self.steps(steps, element, false, found));
        }
        let mut go_on = |item: Item<'a>| self.steps(rest, item, self.lax, found);
        match step {
            Step::Key(key) => match fields(item) {
                Some(Fields::Borrowed(fields)) => match fields.get(key) {
                    Some(value) => go_on(Cow::Borrowed(value)),
                    None => self.missing(MEMBER_NOT_FOUND, no_key(key)),
                },
                Some(Fields::Owned(mut fields)) => match fields.shift_remove(key) {
                    Some(value) => go_on(Cow::Owned(value)),
                    None => self.missing(MEMBER_NOT_FOUND, no_key(key)),
                },
                None => self
                    .missing(MEMBER_NOT_FOUND, "jsonpath member accessor can only be applied to an object"),
            },
            Step::AnyKey => match fields(item) {
                Some(Fields::Borrowed(fields)) => {
                    fields.values().try_for_each(|value| go_on(Cow::Borrowed(value)))
                }
                Some(Fields::Owned(fields)) => {
                    fields.into_iter().try_for_each(|(_, value)| go_on(Cow::Owned(value)))
                }
                None => self.missing(
                    OBJECT_NOT_FOUND,
                    "jsonpath wildcard member accessor can only be applied to an object",
                ),
            },
            Step::AnyElement if item.is_array() => {
                let mut elements = Vec::new();
                elements_of(item, &mut elements);
                elements.into_iter().try_for_each(go_on)
            }
            Step::AnyElement if self.lax => go_on(item),
            Step::AnyElement => Err(Error::new(
                ARRAY_NOT_FOUND,
                "jsonpath wildcard array accessor can only be applied to an array",
            )),
            Step::Elements(subscripts) => self.elements(subscripts, item, &mut go_on),
            Step::AnyDepth(from, to) => self.descend(item, 0, (*from, *to), &mut go_on),
            Step::Filter(condition) => {
                let holds = match &item {
                    Cow::Borrowed(value) => {
                        Context { current: Some(value), ..*self }.predicate(condition) == Some(true)
                    }
                    Cow::Owned(value) => {
                        // What was made on the way lives only here.
                        let context: Context<'_> = Context { current: Some(value), ..*self };
                        context.predicate(condition) == Some(true)
                    }
                };
                if holds { go_on(item) } else { Ok(()) }
            }
            Step::Method(method) => {
                for result in self.method(*method, &item)? {
                    go_on(Cow::Owned(result))?;
                }
                Ok(())
            }
        }
    }

    /// Nothing in lax mode, an error in strict mode.
    fn missing(&self, sqlstate: SqlState, message: impl Into<String>) -> Result<()> {
        if self.lax { Ok(()) } else { Err(Error::new(sqlstate, message)) }
    }

    fn elements(
        &self,
        subscripts: &'a [(Expr, Option<Expr>)],
        item: Item<'a>,
        go_on: &mut dyn FnMut(Item<'a>) -> Result<()>,
    ) -> Result<()> {
        let mut elements = Vec::new();
        if item.is_array() {
            elements_of(item, &mut elements);
        } else if self.lax {
            elements.push(item);
        } else {
            return Err(Error::new(
                ARRAY_NOT_FOUND,
                "jsonpath array accessor can only be applied to an array",
            ));
        }
        let context = Context { length: Some(elements.len()), ..*self };
        for (from, to) in subscripts {
            let from = context.subscript(from)?;
            let to = to.as_ref().map_or(Ok(from), |to| context.subscript(to))?;
            let end = elements.len() as i64;
            if !self.lax && (from < 0 || from > to || to >= end) {
                return Err(Error::new(SUBSCRIPT, "jsonpath array subscript is out of bounds"));
            }
            for idx in from.max(0)..=to.min(end - 1) {
                go_on(elements[idx as usize].clone())?;
            }
        }
        Ok(())
    }

    /// A subscript is cut off to an integer.
    fn subscript(&self, expr: &'a Expr) -> Result<i64> {
        let items = self.expr(expr)?;
        let number = match &items[..] {
            [item] => item.as_f64(),
            _ => None,
        };
        let Some(number) = number else {
            return Err(Error::new(SUBSCRIPT, "jsonpath array subscript is not a single numeric value"));
        };
        let number = number.trunc();
        if number.abs() > f64::from(i32::MAX) {
            return Err(Error::new(SUBSCRIPT, "jsonpath array subscript is out of integer range"));
        }
        Ok(number as i64)
    }

    fn descend(
        &self,
        item: Item<'a>,
        depth: u32,
        (from, to): (Level, Level),
        go_on: &mut dyn FnMut(Item<'a>) -> Result<()>,
    ) -> Result<()> {
        let is_leaf = match item.as_ref() {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => true,
        };
        let is_below = match to {
            Level::At(to) => depth < to,
            Level::Last => true,
        };
        let is_wanted = match (from, to) {
            // `last` is where nothing is below.
            (Level::Last, _) => is_leaf,
            (Level::At(from), Level::At(to)) => (from..=to).contains(&depth),
            (Level::At(from), Level::Last) => depth >= from,
        };
        if is_wanted {
            go_on(item.clone())?;
        }
        if !is_below {
            return Ok(());
        }
        let mut children = Vec::new();
        match item {
            Cow::Borrowed(Value::Object(fields)) => children.extend(fields.values().map(Cow::Borrowed)),
            Cow::Owned(Value::Object(fields)) => {
                children.extend(fields.into_iter().map(|(_, value)| Cow::Owned(value)));
            }
            array if array.is_array() => elements_of(array, &mut children),
            _ => (),
        }
        children.into_iter().try_for_each(|child| self.descend(child, depth + 1, (from, to), go_on))
    }

    fn method(&self, method: Method, item: &Value) -> Result<Vec<Value>> {
        let name = method.name();
        let number = || {
            item.as_number().ok_or_else(|| {
                let message =
                    format!("jsonpath item method .{name}() can only be applied to a numeric value");
                Error::new(NON_NUMERIC, message)
            })
        };
        Ok(vec![match method {
            Method::Type => super::super::json::type_of(item).into(),
            Method::Size => match item {
                Value::Array(items) => items.len().into(),
                _ if self.lax => 1.into(),
                _ => {
                    return Err(Error::new(
                        ARRAY_NOT_FOUND,
                        "jsonpath item method .size() can only be applied to an array",
                    ));
                }
            },
            Method::Abs => {
                let number = number()?;
                Value::Number(if is_negative(number) { negated(number)? } else { number.clone() })
            }
            Method::Floor => rounded(number()?, f64::floor)?,
            Method::Ceiling => rounded(number()?, f64::ceil)?,
            Method::Double => {
                let parsed = match item {
                    Value::Number(number) => number.as_f64(),
                    Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
                    _ => {
                        return Err(Error::new(
                            NON_NUMERIC,
                            "jsonpath item method .double() can only be applied to a string or numeric value",
                        ));
                    }
                };
                let Some(number) = parsed else {
                    return Err(Error::new(
                        NON_NUMERIC,
                        "string argument of jsonpath item method .double() is not a valid representation of a \
                         double precision number",
                    ));
                };
                Value::Number(of_float(number)?)
            }
            Method::KeyValue => {
                let Value::Object(fields) = item else {
                    return Err(Error::new(
                        OBJECT_NOT_FOUND,
                        "jsonpath item method .keyvalue() can only be applied to an object",
                    ));
                };
                let pair = |(key, value): (&String, &Value)| {
                    // PostgreSQL's id is where the object lies in its own encoding, which is zero for the whole.
                    let mut pair = Map::new();
                    pair.insert("id".into(), 0.into());
                    pair.insert("key".into(), key.clone().into());
                    pair.insert("value".into(), value.clone());
                    Value::Object(pair)
                };
                return Ok(fields.iter().map(pair).collect());
            }
        }])
    }

    /// `None` is unknown.
    fn predicate(&self, expr: &Expr) -> Option<bool> {
        match expr {
            Expr::And(left, right) => match self.predicate(left) {
                Some(false) => Some(false),
                left => match self.predicate(right) {
                    Some(true) => left,
                    right => right,
                },
            },
            Expr::Or(left, right) => match self.predicate(left) {
                Some(true) => Some(true),
                left => match self.predicate(right) {
                    Some(false) => left,
                    right => right,
                },
            },
            Expr::Not(operand) => self.predicate(operand).map(|truth| !truth),
            Expr::IsUnknown(operand) => Some(self.predicate(operand).is_none()),
            Expr::Exists(operand) => Some(!self.narrowed().expr(operand).ok()?.is_empty()),
            Expr::Compare(comparison, left, right) => {
                let right = self.narrowed().operand(right).ok()?;
                self.any(left, &right, |left, right| compared(*comparison, left, right))
            }
            Expr::StartsWith(whole, start) => {
                let starts = self.narrowed().expr(start).ok()?;
                self.any(whole, &starts, |whole, start| Some(whole.as_str()?.starts_with(start.as_str()?)))
            }
            Expr::LikeRegex(text, regex) => {
                let one = [Cow::Owned(Value::Null)];
                self.any(text, &one, |text, _| Some(regex.is_match(text.as_str()?)))
            }
            // Another expression where a truth value is wanted is refused by the parser.
            _ => None,
        }
    }

    /// The same, for an expression that need not live as long as the document.
    fn narrowed<'b>(&self) -> Context<'b>
    where
        'a: 'b,
    {
        *self
    }

    /// Whether a predicate is true of any pair; unknown where it is so of a pair before that one is found.
    fn any(
        &self,
        left: &Expr,
        right: &[Item<'_>],
        holds: impl Fn(&Value, &Value) -> Option<bool>,
    ) -> Option<bool> {
        let left = self.narrowed().operand(left).ok()?;
        let (mut is_unknown, mut is_found) = (false, false);
        for left in &left {
            for right in right {
                match holds(left, right) {
                    Some(true) if self.lax => return Some(true),
                    Some(true) => is_found = true,
                    None if !self.lax => return None,
                    None => is_unknown = true,
                    Some(false) => (),
                }
            }
        }
        if is_unknown && !is_found { None } else { Some(is_found) }
    }
}

enum Fields<'a> {
    Borrowed(&'a Map<String, Value>),
    Owned(Map<String, Value>),
}

/// `None` for what is no object.
fn fields(item: Item<'_>) -> Option<Fields<'_>> {
    match item {
        Cow::Borrowed(Value::Object(fields)) => Some(Fields::Borrowed(fields)),
        Cow::Owned(Value::Object(fields)) => Some(Fields::Owned(fields)),
        _ => None,
    }
}

/// The elements of an array, or the item itself.
fn elements_of<'a>(item: Item<'a>, elements: &mut Vec<Item<'a>>) {
    match item {
        Cow::Borrowed(Value::Array(items)) => elements.extend(items.iter().map(Cow::Borrowed)),
        Cow::Owned(Value::Array(items)) => elements.extend(items.into_iter().map(Cow::Owned)),
        other => elements.push(other),
    }
}

fn no_key(key: &str) -> String {
    format!("JSON object does not contain key \"{key}\"")
}

fn not_a_number(side: &str, operator: Arithmetic) -> Error {
    let symbol = operator.symbol();
    Error::new(
        SINGLETON,
        format!("{side} operand of jsonpath operator {symbol} is not a single numeric value"),
    )
}

fn compared(comparison: Comparison, left: &Value, right: &Value) -> Option<bool> {
    let ordering = match (left, right) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => number_ordering(left, right)?,
        (Value::String(left), Value::String(right)) => left.cmp(right),
        // Null is unlike all others, which are not comparable to each other.
        (Value::Null, _) | (_, Value::Null) => return Some(comparison == Comparison::NotEqual),
        _ => return None,
    };
    Some(match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
    })
}

fn number_ordering(left: &Number, right: &Number) -> Option<Ordering> {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

fn is_negative(number: &Number) -> bool {
    number.as_f64().is_some_and(|number| number < 0.0)
}

fn negated(number: &Number) -> Result<Number> {
    match number.as_i128().and_then(|integer| Number::from_i128(-integer)) {
        Some(negated) => Ok(negated),
        None => of_float(-number.as_f64().unwrap_or_default()),
    }
}

fn rounded(number: &Number, round: fn(f64) -> f64) -> Result<Value> {
    match number.as_i128() {
        Some(_) => Ok(Value::Number(number.clone())),
        None => Ok(Value::Number(of_float(round(number.as_f64().unwrap_or_default()))?)),
    }
}

fn computed(operator: Arithmetic, left: &Number, right: &Number) -> Result<Number> {
    let is_division = matches!(operator, Arithmetic::Divide | Arithmetic::Modulo);
    if is_division && right.as_f64() == Some(0.0) {
        return Err(Error::new(SqlState::DIVISION_BY_ZERO, "division by zero"));
    }
    if let (Some(left), Some(right)) = (left.as_i128(), right.as_i128()) {
        let exact = match operator {
            Arithmetic::Add => left.checked_add(right),
            Arithmetic::Subtract => left.checked_sub(right),
            Arithmetic::Multiply => left.checked_mul(right),
            Arithmetic::Divide => (left % right == 0).then(|| left / right),
            Arithmetic::Modulo => Some(left % right),
        };
        if let Some(number) = exact.and_then(Number::from_i128) {
            return Ok(number);
        }
    }
    let (left, right) = (left.as_f64().unwrap_or_default(), right.as_f64().unwrap_or_default());
    of_float(match operator {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
        Arithmetic::Modulo => left % right,
    })
}

/// A whole number is written without a point.
fn of_float(number: f64) -> Result<Number> {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return Ok((number as i64).into());
    }
    Number::from_f64(number)
        .ok_or_else(|| Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "numeric value is out of range"))
}
