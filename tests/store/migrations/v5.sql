BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('5');
CREATE TABLE control (
	one INTEGER NOT NULL CHECK (one = 1), 
	epoch BIGINT NOT NULL, 
	version BIGINT NOT NULL, 
	PRIMARY KEY (one)
);
INSERT INTO "control" VALUES(1,0,25);
CREATE TABLE journal (
	position BIGINT NOT NULL, 
	topic TEXT NOT NULL, 
	round INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	body JSON NOT NULL, 
	data BLOB, 
	PRIMARY KEY (position)
);
INSERT INTO "journal" VALUES(15,'ordered',0,'','{"word": "pause"}',NULL);
INSERT INTO "journal" VALUES(16,'excluded',0,'"eve"','{"why": "it lied"}',NULL);
INSERT INTO "journal" VALUES(17,'enrolled',0,'ann','{"client": 7, "rows": 10, "certificate": "PEM of ann"}',NULL);
INSERT INTO "journal" VALUES(18,'enrolled',0,'bob','{"client": "bob", "rows": 20, "certificate": "PEM of bob"}',NULL);
INSERT INTO "journal" VALUES(19,'enrolled',0,'eve','{"client": "eve", "rows": 30, "certificate": "PEM of eve"}',NULL);
INSERT INTO "journal" VALUES(20,'opened',3,'train','{"model": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "since": 99.5, "cohort": [7, "bob", "eve"], "times": [1, 2, 1], "roster": [[7, 10], ["bob", 20], ["eve", 30]], "groups": [[7, "bob"]], "counted": [], "attempt": 2}',NULL);
INSERT INTO "journal" VALUES(21,'decided',3,'train 7','{"standing": "arrived", "reason": "", "text": "", "digest": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "size": 100, "weight": 10.0, "client": 7, "metrics": {"rows": 10.0, "loss": 4.0, "steps": 2.0, "drift": 0.5}, "attempt": 2}',NULL);
INSERT INTO "journal" VALUES(22,'said',3,'certificates ','{"name": "", "kind": "certificates", "blob": "", "digest": "", "metrics": {}, "attempt": 2}',X'7B7D');
INSERT INTO "journal" VALUES(23,'said',3,'11 ann','{"name": "ann", "kind": "11", "blob": "", "digest": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "metrics": {}, "attempt": 2}',X'00FF');
INSERT INTO "journal" VALUES(24,'committed',1,'','{"accepted": [7]}',X'');
INSERT INTO "journal" VALUES(25,'committed',2,'','{"accepted": []}',X'');
CREATE TABLE memory(
  client TEXT NOT NULL, round INTEGER NOT NULL, arrays BLOB NOT NULL,
  PRIMARY KEY (client, round)) STRICT;
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "meta" VALUES('schema','2');
INSERT INTO "meta" VALUES('federation','true');
INSERT INTO "meta" VALUES('run','"run-1"');
INSERT INTO "meta" VALUES('plan','{"rounds": 3}');
INSERT INTO "meta" VALUES('raised','[1]');
CREATE TABLE rounds(round INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
INSERT INTO "rounds" VALUES(1,'{"round": 1, "accepted": [7], "invited": [7, "bob"]}');
INSERT INTO "rounds" VALUES(2,'{"round": 2, "accepted": [], "invited": [7, "bob"]}');
CREATE TABLE state(
  one INTEGER PRIMARY KEY CHECK (one = 1), round INTEGER NOT NULL, file TEXT, arrays BLOB) STRICT;
INSERT INTO "state" VALUES(1,2,NULL,X'38000000000000007B2278223A7B226474797065223A22463634222C227368617065223A5B335D2C22646174615F6F666673657473223A5B302C32345D7D7D20000000000000004000000000000000400000000000000040');
CREATE TABLE superseded(
  number INTEGER NOT NULL, round INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (number, round)) STRICT;
CREATE TABLE transitions (
	id INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	round INTEGER NOT NULL, 
	"before" TEXT NOT NULL, 
	"after" TEXT NOT NULL, 
	cause TEXT NOT NULL, 
	client TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "transitions" VALUES(1,1.79608729682900023459e+09,1,'committing','committed','1 accepted',NULL);
INSERT INTO "transitions" VALUES(2,1.79608729687672591208e+09,2,'committing','committed','1 accepted',NULL);
CREATE TABLE versions(round INTEGER PRIMARY KEY, file TEXT, arrays BLOB) STRICT;
CREATE UNIQUE INDEX journal_once ON journal (topic, round, "key");
COMMIT;
