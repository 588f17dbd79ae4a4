# yoyo-migrations 9

BEGIN;
CREATE TABLE "yoyo_lock" ("locked" INT DEFAULT 1, "ctime" TIMESTAMP,"pid" INT NOT NULL,PRIMARY KEY ("locked"));
COMMIT;
CREATE TABLE "yoyo_tmp_RjqC0zVXAI" ("id" INT PRIMARY KEY);
ROLLBACK;
DROP TABLE "yoyo_tmp_RjqC0zVXAI";
INSERT INTO "yoyo_lock"
                        ("locked", "ctime", "pid")
                        VALUES (1, '2026-11-21T03:31:17.631055'::timestamp, 25715);
SELECT current_schema;
-- other rows
SELECT table_name FROM information_schema.tables WHERE table_schema = 'public';
CREATE TABLE "_yoyo_migration" (id VARCHAR(191) NOT NULL PRIMARY KEY,ctime TIMESTAMP);
CREATE TABLE "_yoyo_log" (
            "id" VARCHAR(36),
            "migration_hash" VARCHAR(64),
            "migration_id" VARCHAR(255),
            "operation" VARCHAR(10),
            "username" VARCHAR(255),
            "hostname" VARCHAR(255),
            "comment" VARCHAR(255),
            "created_at_utc" TIMESTAMP,
            PRIMARY KEY ("id")
        );
CREATE TABLE "_yoyo_version" (
            "version" INT NOT NULL PRIMARY KEY,
            "installed_at_utc" TIMESTAMP
        );
SELECT "id", "ctime" FROM "_yoyo_migration";
DROP TABLE "_yoyo_migration";
CREATE TABLE "_yoyo_migration" (
            "migration_hash" VARCHAR(64),
            "migration_id" VARCHAR(255),
            "applied_at_utc" TIMESTAMP,
            PRIMARY KEY ("migration_hash")
        );
INSERT INTO "_yoyo_migration"
        SELECT "migration_hash", "migration_id", "created_at_utc"
        FROM "_yoyo_log";
INSERT INTO "_yoyo_version" VALUES (2, '2026-11-21T03:31:17.649469'::timestamp);
SELECT "migration_hash" FROM "_yoyo_migration" ORDER by "applied_at_utc";
BEGIN;
SAVEPOINT "sp_1";
create table yy (id int, v text);
INSERT INTO "_yoyo_log" ("id", "migration_hash", "migration_id", "operation", "username", "hostname", "created_at_utc") VALUES ('031691fc-e55c-11f1-8eec-02fc00000001', 'bb42b9f93f1c6aa4ddbb9b76367fcd2e2a06a82c79983f27ef2317ad338fbb58', '0001.init', 'apply', 'root', 'localhost', '2026-11-21T03:31:17.677055'::timestamp);
INSERT INTO "_yoyo_migration" ("migration_hash", "migration_id", "applied_at_utc") VALUES ('bb42b9f93f1c6aa4ddbb9b76367fcd2e2a06a82c79983f27ef2317ad338fbb58', '0001.init', '2026-11-21T03:31:17.680827'::timestamp);
DELETE FROM "yoyo_lock" WHERE "pid"=25715;
COMMIT;
