// One comparison of one database, from where its progress stands to the end.
#pragma once

#include <functional>
#include <string>

#include "movers/postgres/compare.h"
#include "movers/postgres/verify.h"

namespace midstream::postgres {

class Comparison {
 public:
  // Asks one of the sides; `owner` tells which. From several threads at once.
  using Ask = std::function<Result<Json>(bool owner, std::string_view verb, Json args)>;
  // Makes `progress` durable.
  using Keep = std::function<Result<>(const Progress& progress)>;

  // `most_rows`: of one statement.
  Comparison(Ask ask, Keep keep, std::int64_t most_rows, Progress& progress, VerifyFigures& figures)
      : ask_(std::move(ask)), keep_(std::move(keep)), most_rows_(most_rows), progress_(progress), figures_(figures) {}

  // Everything is compared and the verdict noted; an error says why not, and what was compared is kept.
  Result<> run();

 private:
  struct Table {
    std::string name;
    Json key = Json::array();
    std::int64_t rows = 0;
    std::int64_t bytes = 0;
    bool exact = false;  // both sides can hash values by their binary form
    // What every question about it has.
    Json named() const { return {{"table", name}, {"key", key}, {"exact", exact}}; }
    Json named(std::string_view field, Json value) const {
      auto out = named();
      out[field] = std::move(value);
      return out;
    }
  };
  // What both sides answered, asked at the same time.
  struct Both {
    Json owner;
    Json follower;
  };
  using Asked = std::function<Result<Json>(bool owner)>;
  Result<Both> both(const Asked& one) const;
  Result<Both> both(std::string_view verb, const Json& args) const;

  Result<std::vector<Table>> tables();
  Result<> compare_sequences();
  Result<> compare_objects();
  Result<> settle_objects(std::set<std::string> keys, const Json& range);
  Result<> carry_object(std::int64_t oid, const std::string& digest);
  Result<> by_range(const Table& table);
  Result<> by_pages(const Table& table);
  // A part whose digests differ: its buckets, their rows, and those looked at again.
  Result<> sort_out(const Table& table, const Json& part);
  Result<> sort_out_buckets(const Table& table, const Json& part, const Buckets& mine, const Buckets& theirs);
  // What is said of all pages of a table without key, slice by slice.
  Result<Json> through_pages(bool owner, std::string_view verb, Json args, const std::function<Result<bool>(const Json&)>& take) const;
  Result<RowDigests> rows_of(const Table& table, bool owner, std::string_view verb, Json args) const;
  Result<RowDigests> look(const Table& table, bool owner, const std::set<std::string>& keys) const;
  Result<> look_again(const Table& table, std::set<std::string> candidates);
  Result<std::set<std::string>> pinned(const Table& table, const std::set<std::string>& keys) const;
  void found(const std::string& what, const std::set<std::string>& keys, const std::vector<std::string>& shown);
  void found(const std::string& what, const std::set<std::string>& keys);
  Result<std::vector<std::string>> rows_shown(const Table& table, const std::set<std::string>& hashes) const;
  bool hopeless(const std::string& what) const;
  Result<> keep_now_and_then();

  Ask ask_;
  Keep keep_;
  std::int64_t most_rows_;
  Progress& progress_;
  VerifyFigures& figures_;
  std::chrono::nanoseconds kept_{0};
  std::chrono::nanoseconds began_{0};
  std::int64_t took_before_ = 0;
};

}  // namespace midstream::postgres
