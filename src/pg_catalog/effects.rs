//! Functions that do something: sequences, advisory locks, `set_config`.
//!
//! They belong to one session, and are put into the plans of queries that name them. What has to wait, which is taking a
//! lock, is an asynchronous function of DataFusion's; dropping the query ends the waiting.

use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, plan_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Query, Value as SqlValue, Visitor,
};
use tidemill_catalog::{Kind, Object, Privilege};
use tidemill_core::SqlState;

use crate::pg_catalog::functions::rows_of;
use crate::pg_catalog::layout::field;
use crate::pg_catalog::value::{Value, to_array};
use crate::pg_catalog::{PgCatalog, split_name};
use crate::privileges::require_sequence;
use crate::sequences::{Given, Sequences};
use crate::session::advisory::{Key, Locker, Mode, Scope};
use crate::session::api::SqlError;
use crate::session::settings::Settings;

/// What such functions act on.
#[derive(Debug)]
pub struct Effects {
    pub pg: PgCatalog,
    pub sequences: Arc<Sequences>,
    pub given: Arc<Given>,
    pub locker: Arc<Locker>,
    pub lock_timeout: Option<Duration>,
    /// What `set_config` has set, until the session takes it up.
    pub settings: Arc<Mutex<Changes>>,
    /// To check what is set against.
    pub known: Settings,
}

/// Settings that functions have set: name, value, and whether for the transaction only.
pub type Changes = Vec<(String, String, bool)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    NextVal,
    CurrVal,
    LastVal,
    SetVal,
    SetConfig,
    TryLock(Mode, Scope),
    Unlock(Mode),
    UnlockAll,
    Lock(Mode, Scope),
}

/// Name, what it does, the type that it gives.
const FUNCTIONS: [(&str, Effect, &str); 16] = {
    use Effect::{Lock, TryLock, Unlock};
    use Mode::{Exclusive, Shared};
    [
        ("nextval", Effect::NextVal, "int8"),
        ("currval", Effect::CurrVal, "int8"),
        ("lastval", Effect::LastVal, "int8"),
        ("setval", Effect::SetVal, "int8"),
        ("set_config", Effect::SetConfig, "text"),
        ("pg_try_advisory_lock", TryLock(Exclusive, Scope::Session), "bool"),
        ("pg_try_advisory_lock_shared", TryLock(Shared, Scope::Session), "bool"),
        ("pg_try_advisory_xact_lock", TryLock(Exclusive, Scope::Transaction), "bool"),
        ("pg_try_advisory_xact_lock_shared", TryLock(Shared, Scope::Transaction), "bool"),
        ("pg_advisory_unlock", Unlock(Exclusive), "bool"),
        ("pg_advisory_unlock_shared", Unlock(Shared), "bool"),
        ("pg_advisory_unlock_all", Effect::UnlockAll, "void"),
        ("pg_advisory_lock", Lock(Exclusive, Scope::Session), "void"),
        ("pg_advisory_lock_shared", Lock(Shared, Scope::Session), "void"),
        ("pg_advisory_xact_lock", Lock(Exclusive, Scope::Transaction), "void"),
        ("pg_advisory_xact_lock_shared", Lock(Shared, Scope::Transaction), "void"),
    ]
};

/// One of them that a query calls.
pub fn effect_in(query: &Query) -> Option<String> {
    tidemill_sql::visit::walk(query, &mut Detector { takes_numbers_only: false }).break_value()
}

/// Whether a query calls any of them.
pub fn has_effects(query: &Query) -> bool {
    effect_in(query).is_some()
}

/// Whether a query may change a sequence.
pub fn takes_numbers(query: &Query) -> bool {
    tidemill_sql::visit::walk(query, &mut Detector { takes_numbers_only: true }).is_break()
}

/// The parameters that stand for arguments of such functions, with their types.
pub fn effect_params(query: &Query) -> Vec<(String, DataType)> {
    let mut params = Params::default();
    let _ = tidemill_sql::visit::walk(query, &mut params);
    params.0
}

#[derive(Default)]
struct Params(Vec<(String, DataType)>);

impl Visitor for Params {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.0.last().and_then(|part| part.as_ident());
        let name = name.map(|ident| ident.value.to_lowercase()).unwrap_or_default();
        let Some((_, effect, _)) = FUNCTIONS.iter().find(|(known, _, _)| *known == name) else {
            return ControlFlow::Continue(());
        };
        let FunctionArguments::List(list) = &function.args else { return ControlFlow::Continue(()) };
        for (idx, argument) in list.args.iter().enumerate() {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = argument else { continue };
            let mut argument = argument;
            while let Expr::Cast { expr, .. } | Expr::Nested(expr) = argument {
                argument = expr;
            }
            let Expr::Value(value) = argument else { continue };
            let SqlValue::Placeholder(param) = &value.value else { continue };
            let data_type = match (effect, idx, list.args.len()) {
                (Effect::NextVal | Effect::CurrVal | Effect::SetVal, 0, _) => DataType::Utf8,
                (Effect::SetVal, 1, _) => DataType::Int64,
                (Effect::SetConfig, 0 | 1, _) => DataType::Utf8,
                (Effect::SetVal | Effect::SetConfig, ..) => DataType::Boolean,
                (_, _, 1) => DataType::Int64,
                _ => DataType::Int32,
            };
            self.0.push((param.clone(), data_type));
        }
        ControlFlow::Continue(())
    }
}

struct Detector {
    takes_numbers_only: bool,
}

impl Visitor for Detector {
    type Break = String;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.0.last().and_then(|part| part.as_ident());
        let Some(name) = name.map(|ident| ident.value.to_lowercase()) else {
            return ControlFlow::Continue(());
        };
        let found = FUNCTIONS.iter().find(|(known, _, _)| *known == name);
        let is_asked = found.is_some_and(|(_, effect, _)| {
            !self.takes_numbers_only || matches!(effect, Effect::NextVal | Effect::SetVal)
        });
        if is_asked { ControlFlow::Break(name) } else { ControlFlow::Continue(()) }
    }
}

impl Effects {
    /// All of the functions.
    pub fn functions(self: &Arc<Effects>) -> Vec<Arc<ScalarUDF>> {
        let function = |&(name, effect, returns): &(&'static str, Effect, &'static str)| {
            let signature = TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]);
            let function = EffectFunction {
                name,
                effect,
                returns,
                effects: self.clone(),
                signature: Signature::new(signature, Volatility::Volatile),
            };
            Arc::new(match effect {
                Effect::Lock(..) => AsyncScalarUDF::new(Arc::new(function)).into_scalar_udf(),
                _ => ScalarUDF::from(function),
            })
        };
        FUNCTIONS.iter().map(function).collect()
    }

    /// The sequence that a name or an OID means.
    fn sequence(&self, value: &Value) -> Result<Arc<Object>, SqlError> {
        let catalog = &self.pg.catalog;
        if let Value::Int(oid) = value {
            let found = u32::try_from(*oid).ok().and_then(|oid| catalog.get(oid));
            return found.cloned().ok_or_else(|| {
                SqlError::new(SqlState::UNDEFINED_TABLE, format!("could not open relation with OID {oid}"))
            });
        }
        let text = value.text().unwrap_or_default();
        let parts = split_name(&text).unwrap_or_default();
        let (schema, name) = match parts.as_slice() {
            [name] => (None, name.as_str()),
            [.., schema, name] => (Some(schema.as_str()), name.as_str()),
            [] => return Err(SqlError::new(SqlState("42602"), format!("invalid name: \"{text}\""))),
        };
        Ok(catalog.resolve_kind(Kind::Sequence, schema, name, &self.pg.search_path)?.clone())
    }

    /// The sequence that an argument means, which must be the user's to do something with.
    fn allowed(&self, value: &Value, privileges: &[Privilege]) -> Result<Arc<Object>, SqlError> {
        let sequence = self.sequence(value)?;
        require_sequence(&self.pg.catalog, &self.pg.user, &sequence, privileges)?;
        Ok(sequence)
    }

    fn call(&self, name: &str, effect: Effect, args: &[Value]) -> Result<Value, SqlError> {
        let number = |idx: usize| {
            args.get(idx).and_then(Value::int).ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_FUNCTION,
                    format!("function {name} does not take these arguments"),
                )
            })
        };
        let first = args.first().ok_or_else(|| {
            SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name}() does not exist"))
        });
        Ok(match effect {
            Effect::NextVal => {
                let sequence = self.allowed(first?, &[Privilege::Usage, Privilege::Update])?;
                let value = self.sequences.next(&sequence)?;
                self.given.note(sequence.oid, value);
                Value::Int(value)
            }
            Effect::CurrVal => {
                let sequence = self.allowed(first?, &[Privilege::Usage, Privilege::Select])?;
                Value::Int(self.given.current(&sequence)?)
            }
            Effect::LastVal => Value::Int(self.given.last()?),
            Effect::SetVal => {
                let sequence = self.allowed(first?, &[Privilege::Update])?;
                let value = number(1)?;
                let is_called = args.get(2) != Some(&Value::Bool(false));
                self.sequences.set(&sequence, value, is_called)?;
                if is_called {
                    self.given.note(sequence.oid, value);
                }
                Value::Int(value)
            }
            Effect::SetConfig => {
                let setting = first?.text().unwrap_or_default();
                let value = args.get(1).and_then(Value::text).unwrap_or_default();
                let is_local = args.get(2) == Some(&Value::Bool(true));
                self.known.clone().set(&setting, Some(value.clone()), false)?;
                let mut changes = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
                changes.push((setting, value.clone(), is_local));
                value.into()
            }
            Effect::TryLock(mode, scope) => {
                self.locker.try_lock(self.pg.backend_pid, key(name, args)?, mode, scope).into()
            }
            Effect::Unlock(mode) => self.locker.unlock(key(name, args)?, mode).into(),
            Effect::UnlockAll => {
                self.locker.unlock_all();
                "".into()
            }
            Effect::Lock(..) => unreachable!("it waits"),
        })
    }

    async fn lock(&self, name: &str, mode: Mode, scope: Scope, args: &[Value]) -> Result<Value, SqlError> {
        let waiting = self.locker.lock(self.pg.backend_pid, key(name, args)?, mode, scope);
        match self.lock_timeout {
            Some(timeout) => tokio::time::timeout(timeout, waiting).await.map_err(|_| {
                SqlError::new(SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout")
            })??,
            None => waiting.await?,
        }
        Ok("".into())
    }
}

/// One bigint, or two integers.
fn key(name: &str, args: &[Value]) -> Result<Key, SqlError> {
    let wrong = || {
        SqlError::new(
            SqlState::UNDEFINED_FUNCTION,
            format!("function {name} takes one bigint or two integers"),
        )
    };
    let number = |value: &Value| value.int().ok_or_else(wrong);
    let half = |value: &Value| {
        i32::try_from(number(value)?)
            .map_err(|_| SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "integer out of range"))
    };
    match args {
        [one] => Ok(Key::One(number(one)?)),
        [one, two] => Ok(Key::Two(half(one)?, half(two)?)),
        _ => Err(wrong()),
    }
}

struct EffectFunction {
    name: &'static str,
    effect: Effect,
    returns: &'static str,
    effects: Arc<Effects>,
    signature: Signature,
}

impl EffectFunction {
    fn array(&self, args: &ScalarFunctionArgs, values: &[Value]) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Array(to_array(values, args.return_field.data_type())?))
    }

    /// The arguments of each row: also of a call with constants only, which does what it does once for every row.
    fn rows(args: &ScalarFunctionArgs) -> Result<Vec<Vec<Value>>> {
        let rows = rows_of(args)?;
        match rows.as_slice() {
            [only] if args.number_rows != 1 => Ok(vec![only.clone(); args.number_rows]),
            _ => Ok(rows),
        }
    }
}

impl std::fmt::Debug for EffectFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EffectFunction({})", self.name)
    }
}

impl PartialEq for EffectFunction {
    fn eq(&self, other: &EffectFunction) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.effects, &other.effects)
    }
}

impl Eq for EffectFunction {}

impl Hash for EffectFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

fn external(error: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl ScalarUDFImpl for EffectFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        plan_err!("the type of {} is that of its field", self.name)
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(field(self.name, self.returns)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut values = Vec::new();
        for row in EffectFunction::rows(&args)? {
            values.push(match row.contains(&Value::Null) && self.effect != Effect::SetConfig {
                true => Value::Null,
                false => self.effects.call(self.name, self.effect, &row).map_err(external)?,
            });
        }
        self.array(&args, &values)
    }
}

#[async_trait::async_trait]
impl AsyncScalarUDFImpl for EffectFunction {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Effect::Lock(mode, scope) = self.effect else {
            return plan_err!("{} does not wait", self.name);
        };
        let mut values = Vec::new();
        for row in EffectFunction::rows(&args)? {
            values.push(match row.contains(&Value::Null) {
                true => Value::Null,
                false => self.effects.lock(self.name, mode, scope, &row).await.map_err(external)?,
            });
        }
        self.array(&args, &values)
    }
}
