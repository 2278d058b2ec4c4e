// What logical replication does not carry and new must have beforehand: roles with their verifiers,
// memberships and settings, the databases with their own properties, and the schema.
#pragma once

#include <string>
#include <vector>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// On old: {"roles": [...], "memberships": [...], "settings": [...], "databases": {name: {...}}, "schemas":
// {name: SQL}, "ddl": {name: as ddl_rows(), in the schema
// already}, "identities": {name: as given_identities()}, "quieted": {name: as quieted_triggers()}}. Roles of the system, the superuser of the cluster and our own are left out. Holds verifiers:
// never to be shown.
Result<Json> dump_catalog(const Work& work, bool with_schema);

// Roles in `catalog` that new has already, but otherwise (attributes or verifier).
Result<std::vector<std::string>> conflicting_roles(const Work& work, const Json& catalog);
// Roles in `catalog` that new lacks.
Result<std::vector<std::string>> missing_roles(const Work& work, const Json& catalog);
// Makes the roles named in `made` (where they are still missing), their memberships and settings.
Result<> make_roles(const Work& work, const Json& catalog, const std::vector<std::string>& made);

// CREATE DATABASE with CONNECTION LIMIT 0, from template0, with encoding, locale and owner of old's.
Result<> make_database(const Work& work, const Json& catalog, const std::string& database);
// What follows CREATE ROLE ... WITH and SET in its SQL: attributes and verifier of one of "roles", an entry of one of "settings".
std::string role_attributes(const Json& role);
std::string role_setting(const std::string& entry);
// Rights on the database, `one` of the catalog's "databases".
Result<> grant_database(const Work& work, const Json& one, const std::string& database);
// Rights on the database and its settings.
Result<> settle_database(const Work& work, const Json& catalog, const std::string& database);
// Runs the schema's SQL in the empty database. The title exists already.
Result<> restore_schema(const Work& work, const Json& catalog, const std::string& database);

}  // namespace midstream::postgres
