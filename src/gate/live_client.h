// For live tests: a client that keeps one session.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <libpq-fe.h>
#include <poll.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sys/clock.h"
#include "sys/stream.h"

namespace midstream::gate {

class Client {
 public:
  explicit Client(const std::string& info) : connection_(PQconnectdb(info.c_str()), &PQfinish) {
    if (PQstatus(get()) != CONNECTION_OK) ADD_FAILURE() << PQerrorMessage(get());
  }
  PGconn* get() const { return connection_.get(); }
  // Its one value, its command, or its error.
  std::string run(const std::string& sql) { return text(PQexec(get(), sql.c_str())); }
  std::string prepared(const char* name, std::vector<const char*> values = {}) {
    return text(PQexecPrepared(get(), name, static_cast<int>(values.size()), values.data(), nullptr, nullptr, 0));
  }
  std::string port() { return run("SELECT inet_server_port()"); }
  std::string told(const char* parameter) const { return PQparameterStatus(get(), parameter); }
  std::string text(PGresult* result) const {
    const std::unique_ptr<PGresult, decltype(&PQclear)> owned(result, &PQclear);
    if (PQresultStatus(result) == PGRES_TUPLES_OK) return PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "no row";
    return PQresultStatus(result) == PGRES_COMMAND_OK ? PQcmdStatus(result) : PQresultErrorMessage(result);
  }
  // What it was notified of, once `count` have come or the time is over.
  std::vector<std::string> heard(std::size_t count) {
    std::vector<std::string> all;
    const auto deadline = Deadline::in(Millis(5'000));
    while (all.size() < count && !deadline.expired()) {
      PQconsumeInput(get());
      while (PGnotify* one = PQnotifies(get())) {
        all.emplace_back(one->extra);
        PQfreemem(one);
      }
      if (all.size() < count) (void)wait_fd(PQsocket(get()), POLLIN, Deadline::in(Millis(100)), {});
    }
    return all;
  }

 private:
  std::unique_ptr<PGconn, decltype(&PQfinish)> connection_;
};

// Each of these, on the other side as it was.
inline void looks_the_same(Client& client, const std::vector<std::pair<std::string, std::string>>& wanted) {
  for (const auto& [sql, value] : wanted) EXPECT_EQ(client.run(sql), value) << sql;
}

// Name, type and its modifier of each column, and the row on which it stands.
inline std::string shape(Client& client, const std::string& fetch) {
  const std::unique_ptr<PGresult, decltype(&PQclear)> result(PQexec(client.get(), fetch.c_str()), &PQclear);
  std::string out = PQresultErrorMessage(result.get());
  for (int i = 0; i < PQnfields(result.get()); ++i)
    out += fmt::format("{} {} {} {} = {}; ", PQfname(result.get(), i), PQftype(result.get(), i), PQfmod(result.get(), i), PQfformat(result.get(), i),
                       PQntuples(result.get()) == 0 ? "-" : PQgetisnull(result.get(), 0, i) != 0 ? "NULL" : PQgetvalue(result.get(), 0, i));
  return out;
}

}  // namespace midstream::gate
