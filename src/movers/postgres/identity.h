// Replica identities: what tells one row of a table from another in the stream. A published table without one makes its clients' UPDATE
// and DELETE fail, so the mover gives such a table an identity before it is published, and takes it back at the end. What a table had
// before is in midstream.identity, written by the transaction that changes the table; the other side gets both with the schema.
#pragma once

#include <string>
#include <vector>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// A logged table whose identity, as it stands, tells no row from another.
struct Bare {
  std::string table;
  char given = 'f';     // as in pg_class.relreplident: 'd' its primary key, 'i' `index`, 'f' the whole row
  std::string index;    // qualified; "" but for 'i'
  std::string index_name;  // the same without its schema, which is the table's
  std::int64_t bytes = 0;
  std::string odd_types;  // given the whole row: types of its columns that PostgreSQL cannot compare, by name; "" for none
};

// Needs nothing of ours in the database.
Result<std::vector<Bare>> tables_without_identity(const Work& work, Session& session);
// What the mover will do with `bare`, and what it costs, in words.
std::string words_of(const Bare& bare);

// Every bare table gets its identity, each in a transaction of its own that waits for a lock for a moment only; types that apply could
// not compare get an equality of ours, in schema midstream. Harmless when repeated. REQUIRES the title.
Result<> give_identities(const Work& work, const std::string& database);
// Each is as it was, but for those that somebody else has changed since; our equalities are gone. REQUIRES that nothing is published.
Result<> take_identities_back(const Work& work, const std::string& database);

// What was given in `database`: [[table, was, given, index]].
Result<Json> given_identities(const Work& work, const std::string& database);
// SQL that notes the same in a database whose schema has them already.
Result<std::string> note_identities_sql(const Json& given);

}  // namespace midstream::postgres
