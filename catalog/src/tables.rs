//! Changes of tables, and what goes with them: sequences and indexes.

use std::sync::Arc;

use tidemill_core::did_you_mean;

use crate::catalog::{Catalog, check_name, key_indexes, sorted};
use crate::definition::{Definition, OwnedBy};
use crate::error::Error;
use crate::object::{Column, Index, Object, Oid};

/// What `ALTER TABLE` makes of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct AlteredTable {
    pub columns: Vec<Column>,
    /// Names of columns, in the order of the key.
    pub primary_key: Vec<String>,
    /// The statement that would make it so.
    pub sql: String,
    /// Sequences that its defaults count with.
    pub dependencies: Vec<Oid>,
    pub indexes: Vec<Index>,
    /// Old and new names of columns.
    pub renamed: Vec<(String, String)>,
}

impl Catalog {
    /// With a table of other columns in the place of one.
    ///
    /// It has an OID of its own, since nothing that was kept for the old one fits it.
    pub fn alter_table(&self, oid: Oid, altered: AlteredTable) -> Result<(Catalog, Arc<Object>), Error> {
        self.check_no_dependents("alter", &self.with_owned(&[oid]))?;
        let old = self.expect(oid).clone();
        let mut catalog = self.without(std::slice::from_ref(&old));
        let new = Arc::new(Object {
            oid: catalog.take_oid()?,
            primary_key: key_indexes(&altered.columns, &altered.primary_key)?,
            columns: altered.columns,
            sql: altered.sql,
            dependencies: sorted(altered.dependencies),
            indexes: altered.indexes,
            ..old.as_ref().clone()
        });
        catalog.put(new.clone());
        catalog.forget(std::slice::from_ref(&old), Some(new.oid));
        for sequence in self.owned(oid) {
            let mut sequence = sequence.as_ref().clone();
            let Definition::Sequence(definition) = &mut sequence.definition else { continue };
            let Some(owned_by) = &mut definition.owned_by else { continue };
            let renamed = altered.renamed.iter().find(|(old, _)| *old == owned_by.column);
            if let Some((_, name)) = renamed {
                owned_by.column = name.clone();
            }
            owned_by.table = new.oid;
            catalog.put(Arc::new(sequence));
        }
        Ok((catalog, new))
    }

    /// With other words about an object that keeps its columns' shape: defaults, indexes.
    pub fn redefine(&self, object: Object) -> Catalog {
        self.expect(object.oid);
        let mut catalog = self.changed();
        catalog.put(Arc::new(Object { dependencies: sorted(object.dependencies.clone()), ..object }));
        catalog
    }

    /// With an object of another catalog that this one made.
    pub fn with(&self, object: Arc<Object>) -> Catalog {
        let mut catalog = self.changed();
        catalog.next_oid = catalog.next_oid.max(object.oid + 1);
        catalog.put(object);
        catalog
    }

    /// With a sequence that belongs to a column.
    pub fn own(&self, sequence: Oid, table: Oid, column: &str) -> Catalog {
        let mut object = self.expect(sequence).as_ref().clone();
        if let Definition::Sequence(definition) = &mut object.definition {
            definition.owned_by = Some(OwnedBy { table, column: column.to_owned() });
        }
        self.redefine(object)
    }

    /// The sequences that belong to columns of a table.
    pub fn owned(&self, table: Oid) -> impl Iterator<Item = &Arc<Object>> {
        self.objects().filter(move |object| match &object.definition {
            Definition::Sequence(sequence) => {
                sequence.owned_by.as_ref().is_some_and(|owned_by| owned_by.table == table)
            }
            _ => false,
        })
    }

    /// Objects, and the sequences that belong to them.
    pub(crate) fn with_owned(&self, oids: &[Oid]) -> Vec<Oid> {
        let mut all = oids.to_vec();
        for oid in oids {
            all.extend(self.owned(*oid).map(|sequence| sequence.oid));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The index of a name, and its table.
    pub fn find_index(&self, schema: &str, name: &str) -> Option<(&Arc<Object>, &Index)> {
        self.objects_in(schema).find_map(|object| {
            let index = object.indexes.iter().find(|index| index.name == name)?;
            Some((object, index))
        })
    }

    /// With an index of a table.
    pub fn create_index(
        &self,
        table: Oid,
        name: &str,
        keys: Vec<String>,
        is_unique: bool,
    ) -> Result<Catalog, Error> {
        check_name(name)?;
        let mut object = self.expect(table).as_ref().clone();
        let is_taken =
            self.find(&object.schema, name).is_some() || self.find_index(&object.schema, name).is_some();
        if is_taken || name == format!("{}_pkey", object.name) {
            return Err(Error::Exists { name: name.to_owned(), kind: object.kind() });
        }
        let mut catalog = self.changed();
        let oid = catalog.take_oid()?;
        object.indexes.push(Index { oid, name: name.to_owned(), keys, is_unique });
        object.indexes.sort_by(|a, b| a.name.cmp(&b.name));
        catalog.put(Arc::new(object));
        Ok(catalog)
    }

    /// The table of an index.
    pub fn resolve_index(
        &self,
        schema: Option<&str>,
        name: &str,
        search_path: &[String],
    ) -> Result<&Arc<Object>, Error> {
        let searched: Vec<&str> = match schema {
            Some(schema) => vec![schema],
            None => search_path.iter().map(String::as_str).collect(),
        };
        let found = searched.iter().find_map(|schema| self.find_index(schema, name));
        found.map(|(table, _)| table).ok_or_else(|| {
            let names = searched.iter().flat_map(|schema| self.objects_in(schema));
            let names = names.flat_map(|object| object.indexes.iter().map(|index| index.name.as_str()));
            let near = did_you_mean(name, names).map(str::to_owned);
            Error::IndexNotFound { name: name.to_owned(), near }
        })
    }

    /// Without an index of a table.
    pub fn drop_index(&self, table: Oid, name: &str) -> Catalog {
        let mut object = self.expect(table).as_ref().clone();
        object.indexes.retain(|index| index.name != name);
        self.redefine(object)
    }

    /// The same, with OIDs that have been given to what did not come to be left out.
    pub fn skip_oids(&self, other: &Catalog) -> Catalog {
        Catalog { next_oid: self.next_oid.max(other.next_oid), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::catalog::{Created, NewObject, OnConflict};
    use crate::definition::{SequenceDefinition, TableDefinition};
    use crate::object::Kind;

    fn new(name: &str, definition: Definition) -> NewObject {
        NewObject {
            schema: "public".into(),
            name: name.into(),
            columns: vec![Column::new("a", DataType::Int32, true)],
            primary_key: Vec::new(),
            definition,
            sql: String::new(),
            search_path: vec!["public".into()],
            dependencies: Vec::new(),
            owner: "tidemill".into(),
            created_at: 0,
        }
    }

    fn sequence(name: &str) -> NewObject {
        let definition = SequenceDefinition {
            start: 1,
            increment: 1,
            min: 1,
            max: 9,
            cycle: false,
            data_type: "bigint".into(),
            owned_by: None,
        };
        new(name, Definition::Sequence(definition))
    }

    fn create(catalog: &Catalog, new: NewObject) -> (Catalog, Arc<Object>) {
        let (catalog, created) = catalog.create(new, OnConflict::Fail).unwrap();
        let Created::New(object) = created else { panic!("{created:?}") };
        (catalog, object)
    }

    /// A table whose column counts, and the sequence.
    fn counted() -> (Catalog, Arc<Object>, Arc<Object>) {
        let (catalog, sequence) = create(&Catalog::new(), sequence("s"));
        let table = new("t", Definition::Table(TableDefinition::default()));
        let (catalog, table) = create(&catalog, NewObject { dependencies: vec![sequence.oid], ..table });
        (catalog.own(sequence.oid, table.oid, "a"), table, sequence)
    }

    #[test]
    fn a_sequence_goes_with_its_table_and_not_before() {
        let (catalog, table, sequence) = counted();
        for cascade in [false, true] {
            let refused = catalog.drop(&[sequence.oid], cascade).unwrap_err();
            assert!(matches!(refused, Error::HasDependents { .. }), "{refused:?}");
        }
        let (catalog, dropped) = catalog.drop(&[table.oid], false).unwrap();
        assert_eq!(dropped.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["t", "s"]);
        assert_eq!(catalog.objects().count(), 0);
    }

    #[test]
    fn an_altered_table_has_a_new_oid_and_its_sequence() {
        let (catalog, table, sequence) = counted();
        let altered = AlteredTable {
            columns: vec![Column::new("b", DataType::Int64, true)],
            primary_key: vec!["b".into()],
            sql: "altered".into(),
            dependencies: vec![sequence.oid],
            indexes: Vec::new(),
            renamed: vec![("a".into(), "b".into())],
        };
        let (after, new) = catalog.alter_table(table.oid, altered.clone()).unwrap();
        assert_ne!(new.oid, table.oid);
        assert_eq!(after.get(table.oid), None);
        assert_eq!(after.find("public", "t").unwrap().primary_key, [0]);
        let owned: Vec<&Arc<Object>> = after.owned(new.oid).collect();
        assert_eq!(owned.len(), 1);
        let Definition::Sequence(definition) = &owned[0].definition else { panic!() };
        assert_eq!(definition.owned_by.as_ref().unwrap().column, "b");
        // It is a catalog that can be read again.
        assert_eq!(Catalog::from_bytes(&after.to_bytes()).unwrap(), after);
        // A reader stands in the way.
        let view = crate::definition::ViewDefinition { query: "SELECT a FROM t".into() };
        let view = new_view(view, table.oid);
        let (with_view, _) = create(&catalog, view);
        assert!(with_view.alter_table(table.oid, altered).is_err());
    }

    fn new_view(view: crate::definition::ViewDefinition, on: Oid) -> NewObject {
        NewObject { dependencies: vec![on], ..new("v", Definition::View(view)) }
    }

    #[test]
    fn indexes_have_names_of_their_own() {
        let (catalog, table, _) = counted();
        let catalog = catalog.create_index(table.oid, "i", vec!["a".into()], false).unwrap();
        assert_eq!(catalog.find_index("public", "i").unwrap().0.oid, table.oid);
        for taken in ["i", "t", "t_pkey"] {
            assert!(catalog.create_index(table.oid, taken, vec!["a".into()], false).is_err(), "{taken}");
        }
        let refused = catalog.resolve_index(None, "j", &["public".into()]).unwrap_err();
        assert_eq!(refused, Error::IndexNotFound { name: "j".into(), near: Some("i".into()) });
        assert_eq!(catalog.resolve_index(None, "i", &["public".into()]).unwrap().oid, table.oid);
        assert!(catalog.drop_index(table.oid, "i").find_index("public", "i").is_none());
    }

    #[test]
    fn an_unsettled_catalog_has_the_one_before_inside() {
        let (after, _, _) = counted();
        let (before, _) = create(&Catalog::new(), sequence("x"));
        let (read, unsettled) = Catalog::from_unsettled_bytes(&after.to_unsettled_bytes(&before)).unwrap();
        assert_eq!(read, after);
        assert_eq!(unsettled.unwrap().before, before);
        assert_eq!(Catalog::from_unsettled_bytes(&after.to_bytes()).unwrap(), (after.clone(), None));
        // OIDs that were given to what did not come to be are not given again.
        let next = before.skip_oids(&after);
        let (_, object) = create(&next, sequence("y"));
        assert!(after.objects().all(|other| other.oid < object.oid));
        assert_eq!(next.objects_of(Kind::Sequence).count(), 1);
    }
}
