// A libpq connection with deadlines. Each wait ends at its deadline or stop request, whatever the server
// does.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "sys/clock.h"

struct pg_conn;

namespace midstream::lab {

struct Rows {
  std::vector<std::vector<std::optional<std::string>>> rows;
  std::int64_t affected = 0;
  // The field, "" where it is NULL.
  std::string at(std::size_t row, std::size_t column) const { return rows[row][column].value_or(""); }
};

class PgConnection {
 public:
  // `conninfo` as libpq takes it. `addresses` (numeric) replace the lookup of its host: each is tried in
  // turn, as libpq does. With none, libpq looks the host up itself, in a blocking way. Retry on any failure.
  static Result<PgConnection> connect(const std::string& conninfo, const std::vector<std::string>& addresses,
                                      Deadline deadline, const std::stop_token& stop);

  // One statement with text parameters. Errors: refused = the statement is wrong or breaks a constraint;
  // retry = the server turned it down for now (read-only, shutting down, denied) and it has had no effect;
  // unknown = the connection broke, or the answer was not waited for to its end. After the last, the
  // connection is dead.
  Result<Rows> exec(const std::string& sql, const std::vector<std::string>& params, Deadline deadline,
                    const std::stop_token& stop);

  bool dead() const { return dead_; }
  std::chrono::nanoseconds opened() const { return opened_; }

 private:
  struct Closer {
    void operator()(pg_conn* connection) const;
  };
  explicit PgConnection(std::unique_ptr<pg_conn, Closer> connection)
      : connection_(std::move(connection)), opened_(boot_now()) {}
  static Result<PgConnection> connect_one(const std::string& conninfo, const std::string& address,
                                          Deadline deadline, const std::stop_token& stop);
  Result<> send(const std::string& sql, const std::vector<std::string>& params, Deadline deadline,
                const std::stop_token& stop);

  std::unique_ptr<pg_conn, Closer> connection_;
  std::chrono::nanoseconds opened_;
  bool dead_ = false;
};

// The host in `conninfo`: a name or address, "" for a local socket.
Result<std::string> conninfo_host(const std::string& conninfo);

}  // namespace midstream::lab
