use tidemill_core::Diagnostic;

use crate::*;

fn object(catalog: &Catalog, name: &str, owner: &str, definition: Definition) -> (Catalog, Oid) {
    let new = NewObject {
        schema: "public".into(),
        name: name.into(),
        columns: Vec::new(),
        primary_key: Vec::new(),
        definition,
        sql: String::new(),
        search_path: Vec::new(),
        dependencies: Vec::new(),
        owner: owner.into(),
        created_at: 1,
    };
    let (catalog, created) = catalog.create(new, OnConflict::Replace).unwrap();
    (catalog, created.object().oid)
}

fn table(catalog: &Catalog, name: &str, owner: &str) -> (Catalog, Oid) {
    object(catalog, name, owner, Definition::Table(TableDefinition::default()))
}

/// Roles `ann`, `bob` and `eve`, and `team`, which `bob` is in; table `t` of `ann`.
fn people() -> (Catalog, Target) {
    let mut catalog = Catalog::new();
    for name in ["ann", "bob", "eve", "team"] {
        catalog = catalog.create_role(Role::new(name)).unwrap();
    }
    let membership = Membership { role: "team".into(), grantor: BOOTSTRAP.into(), is_admin: false };
    let catalog = catalog.grant_role("bob", membership).unwrap();
    let (catalog, oid) = table(&catalog, "t", "ann");
    (catalog, Target::Relation(oid))
}

fn grant(privileges: &[Privilege], grantee: &str, grantor: &str) -> Grant {
    Grant {
        privileges: privileges.to_vec(),
        grantee: (grantee != "public").then(|| grantee.to_owned()),
        grantor: grantor.into(),
        grant_option: false,
        cascade: false,
    }
}

fn may_read(catalog: &Catalog, role: &str, target: &Target) -> bool {
    catalog.has_privilege(role, target, Privilege::Select, false)
}

fn acl(catalog: &Catalog, target: &Target) -> Vec<String> {
    let items = catalog.acl(target).unwrap_or_default();
    items.iter().map(|item| item.text(str::to_owned)).collect()
}

#[test]
fn owners_and_superusers_may_all_and_others_what_they_were_granted() {
    let (catalog, t) = people();
    assert!(may_read(&catalog, "ann", &t) && may_read(&catalog, BOOTSTRAP, &t));
    assert!(!may_read(&catalog, "bob", &t) && !may_read(&catalog, "nobody", &t));
    assert_eq!(acl(&catalog, &t), [""; 0], "nothing has been granted yet");

    let to_team = catalog.grant(&t, &grant(&[Privilege::Select], "team", "ann")).unwrap();
    assert!(may_read(&to_team, "bob", &t), "he is in the team");
    assert!(!may_read(&to_team, "eve", &t));
    assert!(!to_team.has_privilege("bob", &t, Privilege::Insert, false));
    assert!(!to_team.has_privilege("bob", &t, Privilege::Select, true), "not to be granted on");
    assert_eq!(acl(&to_team, &t), ["ann=arwdD/ann", "team=r/ann"]);

    let mut bob = to_team.role("bob").unwrap().clone();
    bob.inherits = false;
    let alone = to_team.alter_role(bob).unwrap();
    assert!(!may_read(&alone, "bob", &t), "only after SET ROLE team");
    assert!(alone.is_member("bob", "team"));

    let to_all = catalog.grant(&t, &grant(&[Privilege::Select], "public", "ann")).unwrap();
    assert!(may_read(&to_all, "eve", &t));
    assert_eq!(acl(&to_all, &t), ["ann=arwdD/ann", "=r/ann"]);
    let taken = to_all.revoke(&t, &grant(&[Privilege::Select], "public", "ann")).unwrap();
    assert!(!may_read(&taken, "eve", &t));
    assert_eq!(acl(&taken, &t), ["ann=arwdD/ann"]);
}

#[test]
fn everybody_may_connect_and_use_public_until_that_is_revoked() {
    let (catalog, _) = people();
    let public = Target::Schema("public".into());
    assert!(catalog.has_privilege("eve", &Target::Database, Privilege::Connect, false));
    assert!(!catalog.has_privilege("eve", &Target::Database, Privilege::Create, false));
    assert!(catalog.has_privilege("eve", &public, Privilege::Usage, false));
    assert!(!catalog.has_privilege("eve", &public, Privilege::Create, false));
    for (target, privileges) in
        [(&public, &Privilege::OF_SCHEMA[..]), (&Target::Database, &Privilege::OF_DATABASE)]
    {
        let revoked = catalog.revoke(target, &grant(privileges, "public", BOOTSTRAP)).unwrap();
        for privilege in privileges {
            assert!(!revoked.has_privilege("eve", target, *privilege, false), "{privilege:?}");
        }
        let read = Catalog::from_bytes(&revoked.to_bytes()).unwrap();
        assert_eq!(read, revoked, "an empty list is not the list of the start");
    }
}

#[test]
fn what_was_granted_on_goes_with_the_right_to() {
    let (catalog, t) = people();
    let select = [Privilege::Select];
    let with_option = Grant { grant_option: true, ..grant(&select, "bob", "ann") };
    let catalog = catalog.grant(&t, &with_option).unwrap();
    assert!(catalog.has_privilege("bob", &t, Privilege::Select, true));
    let catalog = catalog.grant(&t, &grant(&select, "eve", "bob")).unwrap();
    assert_eq!(acl(&catalog, &t), ["ann=arwdD/ann", "bob=r*/ann", "eve=r/bob"]);
    for revoke in [grant(&select, "bob", "ann"), Grant { grant_option: true, ..grant(&select, "bob", "ann") }]
    {
        assert_eq!(catalog.revoke(&t, &revoke).unwrap_err(), Error::DependentPrivileges);
        let revoked = catalog.revoke(&t, &Grant { cascade: true, ..revoke.clone() }).unwrap();
        assert!(!may_read(&revoked, "eve", &t));
        assert_eq!(may_read(&revoked, "bob", &t), revoke.grant_option, "the privilege itself may stay");
    }
    let untouched = catalog.revoke(&t, &grant(&select, "eve", "ann")).unwrap();
    assert!(may_read(&untouched, "eve", &t), "the grant was not hers");
}

#[test]
fn memberships_make_no_circle() {
    let (catalog, _) = people();
    let into_bob = Membership { role: "bob".into(), grantor: BOOTSTRAP.into(), is_admin: false };
    let error = catalog.grant_role("team", into_bob).unwrap_err();
    assert_eq!(
        (error.sqlstate().0, error.to_string().as_str()),
        ("0LP01", "role \"bob\" is a member of role \"team\"")
    );
    let (catalog, was) = catalog.revoke_role("bob", "team", false).unwrap();
    assert!(was && !catalog.is_member("bob", "team"));
    assert!(!catalog.revoke_role("bob", "team", false).unwrap().1);
}

#[test]
fn a_role_in_use_stays_and_its_things_can_be_given_away() {
    let (catalog, t) = people();
    let catalog = catalog.grant(&t, &grant(&[Privilege::Select], "team", "ann")).unwrap();
    let error = catalog.drop_role("ann").unwrap_err();
    assert_eq!(error.sqlstate().0, "2BP01");
    assert_eq!(error.detail().unwrap(), "owner of table t\nprivileges for table t");
    assert_eq!(catalog.drop_role("team").unwrap_err().detail().unwrap(), "privileges for table t");
    let given = catalog.reassign_owned("ann", "eve").unwrap();
    assert_eq!(acl(&given, &t), ["eve=arwdD/eve", "team=r/eve"]);
    let without = given.drop_role("ann").unwrap();
    assert!(without.role("ann").is_err() && may_read(&without, "bob", &t));
    for name in [BOOTSTRAP, READ_ALL_DATA] {
        assert!(matches!(catalog.drop_role(name), Err(Error::System { .. })));
    }
}

#[test]
fn a_renamed_role_is_the_same_everywhere() {
    let (catalog, t) = people();
    let catalog = catalog.grant(&t, &grant(&[Privilege::Select], "team", "ann")).unwrap();
    let renamed = catalog.rename_role("team", "crew").unwrap().rename_role("ann", "anna").unwrap();
    assert!(may_read(&renamed, "bob", &t) && renamed.is_member("bob", "crew"));
    assert_eq!(acl(&renamed, &t), ["anna=arwdD/anna", "crew=r/anna"]);
    assert!(may_read(&renamed, "anna", &t));
    assert_eq!(Catalog::from_bytes(&renamed.to_bytes()).unwrap(), renamed);
    assert!(matches!(catalog.rename_role("ann", "bob"), Err(Error::RoleExists { .. })));
}

#[test]
fn names_that_mean_something_are_reserved() {
    let (catalog, _) = people();
    for name in ["public", "none", "current_user", "pg_mine"] {
        let error = catalog.create_role(Role::new(name)).unwrap_err();
        assert_eq!(error.sqlstate().0, "42939", "{name}");
    }
    assert_eq!(catalog.create_role(Role::new("ann")).unwrap_err().sqlstate().0, "42710");
    let weak = Role { is_superuser: false, ..catalog.role(BOOTSTRAP).unwrap().clone() };
    assert_eq!(catalog.alter_role(weak).unwrap_err(), Error::BootstrapRole);
}

#[test]
fn lists_go_with_what_they_are_of_and_pass_to_what_replaces_it() {
    let (catalog, t) = people();
    let catalog = catalog.grant(&t, &grant(&[Privilege::Select], "eve", "ann")).unwrap();
    let Target::Relation(oid) = t else { unreachable!() };
    let (replaced, new) = table(&catalog, "t", "tidemill");
    assert_ne!(new, oid);
    assert!(may_read(&replaced, "eve", &Target::Relation(new)));
    assert_eq!(replaced.get(new).unwrap().owner, "ann", "whoever replaced it");
    let (catalog, _) = table(&replaced, "another", "ann");
    let (dropped, _) = catalog.drop(&[new], false).unwrap();
    let again = dropped.drop_role("eve").expect("nothing is left that she might do");
    assert_eq!(Catalog::from_bytes(&again.to_bytes()).unwrap(), again);
}

#[test]
fn what_is_created_is_given_to_whom_its_creator_said() {
    let (catalog, t) = people();
    let given = grant(&[Privilege::Select, Privilege::Insert], "team", "ann");
    let catalog = catalog.alter_defaults(None, DefaultOn::Relations, &given, false).unwrap();
    let option = Grant { grant_option: true, ..grant(&[Privilege::Select], "team", "ann") };
    let catalog = catalog.alter_defaults(Some("public"), DefaultOn::Relations, &option, false).unwrap();
    let usage = grant(&[Privilege::Usage], "public", "ann");
    let catalog = catalog.alter_defaults(None, DefaultOn::Schemas, &usage, false).unwrap();
    assert_eq!(acl(&catalog, &t), [""; 0], "what was there before is as it was");
    let (made, new) = table(&catalog, "new", "ann");
    assert_eq!(acl(&made, &Target::Relation(new)), ["ann=arwdD/ann", "team=ar*/ann"]);
    let view = Definition::View(ViewDefinition { query: "SELECT 1".into() });
    let (made, new) = object(&made, "v", "ann", view);
    assert_eq!(
        acl(&made, &Target::Relation(new)),
        ["ann=r/ann", "team=r*/ann"],
        "nobody inserts into a view"
    );
    let (made, new) = table(&made, "of_bob", "bob");
    assert_eq!(acl(&made, &Target::Relation(new)), [""; 0]);
    let made = made.create_schema("s", "ann", false).unwrap();
    assert_eq!(acl(&made, &Target::Schema("s".into())), ["ann=UC/ann", "=U/ann"]);
    assert_eq!(Catalog::from_bytes(&made.to_bytes()).unwrap(), made);
    let uses = made.drop_role("team").unwrap_err().detail().unwrap();
    assert!(uses.contains("default privileges on new relations belonging to role ann"), "{uses}");

    let without = made.forget_grants("team").unwrap();
    without.drop_role("team").expect("nothing is left of it");
    let revoked = catalog.alter_defaults(None, DefaultOn::Relations, &given, true).unwrap();
    let revoked = revoked.alter_defaults(Some("public"), DefaultOn::Relations, &option, true).unwrap();
    let (made, new) = table(&revoked, "new", "ann");
    assert_eq!(acl(&made, &Target::Relation(new)), ["ann=arwdD/ann", "team=r/ann"]);
}

#[test]
fn predefined_roles_allow_what_they_say() {
    let (catalog, t) = people();
    let membership = Membership { role: READ_ALL_DATA.into(), grantor: BOOTSTRAP.into(), is_admin: false };
    let catalog = catalog.grant_role("eve", membership).unwrap();
    assert!(may_read(&catalog, "eve", &t));
    assert!(!catalog.has_privilege("eve", &t, Privilege::Insert, false));
    assert_eq!(Catalog::from_bytes(&catalog.to_bytes()).unwrap(), catalog);
}

#[test]
fn a_catalog_without_roles_is_written_as_before_there_were_any() {
    let text = String::from_utf8(Catalog::new().to_bytes()).unwrap();
    assert!(text.contains("\"format\": 1") && !text.contains("access"), "{text}");
    // Whoever owned something then is a role now, which cannot log in until it is told to.
    let (old, oid) = table(&Catalog::new(), "t", "root");
    let text = String::from_utf8(old.to_bytes()).unwrap();
    assert!(text.contains("\"format\": 1"), "{text}");
    let read = Catalog::from_bytes(text.as_bytes()).unwrap();
    let root = read.role("root").unwrap();
    assert!(!root.can_login && !root.is_superuser);
    assert!(read.is_owner("root", &Target::Relation(oid)));
    let text = String::from_utf8(read.to_bytes()).unwrap();
    assert!(text.contains("\"format\": 2"), "an older version would lose the role: {text}");
    assert_eq!(Catalog::from_bytes(text.as_bytes()).unwrap(), read);
}

#[test]
fn a_damaged_list_is_refused() {
    let (catalog, t) = people();
    let catalog = catalog.grant(&t, &grant(&[Privilege::Select], "team", "ann")).unwrap();
    let text = String::from_utf8(catalog.to_bytes()).unwrap();
    for (from, to) in [
        ("\"grantee\": \"team\"", "\"grantee\": \"gone\""),
        ("\"role\": \"team\"", "\"role\": \"gone\""),
        ("\"name\": \"eve\"", "\"name\": \"bob\""),
        ("\"owner\": \"ann\"", "\"owner\": \"gone\""),
        ("\"is_superuser\": true", "\"is_superuser\": false"),
    ] {
        assert!(text.contains(from), "{from}\n{text}");
        let error = Catalog::from_bytes(text.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Corrupted { .. }), "{from}: {error}");
    }
}

#[test]
fn a_verifier_is_not_printed() {
    let role = Role { verifier: Some(Verifier("SCRAM-SHA-256$4096:x".into())), ..Role::new("ann") };
    assert!(!format!("{role:?}").contains("SCRAM"));
}
