BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('3');
CREATE TABLE control (
	one INTEGER NOT NULL CHECK (one = 1), 
	epoch BIGINT NOT NULL, 
	version BIGINT NOT NULL, 
	wanted TEXT NOT NULL, 
	PRIMARY KEY (one)
);
INSERT INTO "control" VALUES(1,0,14,'pause');
CREATE TABLE members (
	name TEXT NOT NULL, 
	client TEXT NOT NULL, 
	rows BIGINT NOT NULL, 
	certificate TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (name), 
	UNIQUE (client)
);
INSERT INTO "members" VALUES('ann','7',10,'PEM of ann');
INSERT INTO "members" VALUES('bob','"bob"',20,'PEM of bob');
INSERT INTO "members" VALUES('eve','"eve"',30,'PEM of eve');
CREATE TABLE memory(
  client TEXT NOT NULL, round INTEGER NOT NULL, arrays BLOB NOT NULL,
  PRIMARY KEY (client, round)) STRICT;
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "meta" VALUES('schema','2');
INSERT INTO "meta" VALUES('federation','true');
INSERT INTO "meta" VALUES('run','"run-1"');
INSERT INTO "meta" VALUES('plan','{"rounds": 3}');
INSERT INTO "meta" VALUES('raised','[1]');
INSERT INTO "meta" VALUES('excluded','[["eve", "it lied"]]');
CREATE TABLE opened (
	round INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	cohort JSON NOT NULL, 
	times JSON NOT NULL, 
	roster JSON NOT NULL, 
	model TEXT NOT NULL, 
	since DOUBLE NOT NULL, groups JSON DEFAULT '[]' NOT NULL, 
	PRIMARY KEY (round, kind)
);
INSERT INTO "opened" VALUES(3,'train','[7, "bob", "eve"]','[1, 2, 1]','[[7, 10], ["bob", 20], ["eve", 30]]','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',99.5,'[[7, "bob"]]');
CREATE TABLE rounds(round INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
INSERT INTO "rounds" VALUES(1,'{"round": 1, "accepted": [7], "invited": [7, "bob"]}');
INSERT INTO "rounds" VALUES(2,'{"round": 2, "accepted": [], "invited": [7, "bob"]}');
CREATE TABLE seats (
	round INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	client TEXT NOT NULL, 
	standing TEXT DEFAULT 'invited' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	text TEXT DEFAULT '' NOT NULL, 
	digest TEXT DEFAULT '' NOT NULL, 
	size BIGINT DEFAULT '0' NOT NULL, 
	weight DOUBLE DEFAULT '0' NOT NULL, 
	metrics JSON DEFAULT '{}' NOT NULL, 
	PRIMARY KEY (round, kind, client)
);
INSERT INTO "seats" VALUES(3,'train','7','arrived','','','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',100,10.0,'{"rows": 10.0, "loss": 4.0, "steps": 2.0, "drift": 0.5}');
INSERT INTO "seats" VALUES(3,'train','"bob"','invited','','','',0,0.0,'{}');
INSERT INTO "seats" VALUES(3,'train','"eve"','invited','','','',0,0.0,'{}');
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
CREATE TABLE words (
	round INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	blob TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	data BLOB NOT NULL, 
	metrics JSON NOT NULL, 
	PRIMARY KEY (round, number)
);
INSERT INTO "words" VALUES(3,1,'','certificates','','',X'7B7D','{}');
INSERT INTO "words" VALUES(3,2,'ann','11','','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',X'00FF','{}');
COMMIT;
