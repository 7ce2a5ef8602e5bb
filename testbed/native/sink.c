/* A Triton backend that takes tensors and leaves them unread: what is left of a request's time is its hand-over.
 *
 * Each row of `bytes` INT64 [rows, 1] says how many bytes of the request's first input came for that row. It
 * answers in the execution that it is given and keeps no thread. Nothing here may read or copy a payload.
 *
 * Where a model's folder has a file `control`, the model is an accelerator of settable speed instead: an execution
 * sleeps for so many milliseconds, and so many a row, or for as long as it is told to hang, as the file says when it
 * begins (three doubles: base, row, hang). When it began and ended, by the monotonic clock, and its rows are added to
 * the file `record` beside it (three int64). The three doubles may be written anew at any time.
 *
 * Only the functions that it calls are declared, from Triton's public backend ABI 1.x, so that no headers are
 * needed; the server that loads it resolves them.
 */

#define _POSIX_C_SOURCE 200809L /* clock_gettime, O_CLOEXEC */

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef struct TRITONSERVER_Error TRITONSERVER_Error;
typedef struct TRITONBACKEND_Input TRITONBACKEND_Input;
typedef struct TRITONBACKEND_Model TRITONBACKEND_Model;
typedef struct TRITONBACKEND_ModelInstance TRITONBACKEND_ModelInstance;
typedef struct TRITONBACKEND_Output TRITONBACKEND_Output;
typedef struct TRITONBACKEND_Request TRITONBACKEND_Request;
typedef struct TRITONBACKEND_Response TRITONBACKEND_Response;

/* The enumerations' values, as the ABI fixes them. */
enum { TYPE_INT64 = 9 };
enum { MEMORY_CPU = 0, MEMORY_GPU = 2 };
enum { ERROR_INTERNAL = 1 };
enum { RELEASE_ALL = 1 };
enum { COMPLETE_FINAL = 1 };

TRITONSERVER_Error* TRITONSERVER_ErrorNew(int code, const char* message);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error);

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceModel(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Model** model);
TRITONSERVER_Error* TRITONBACKEND_ModelRepository(
    TRITONBACKEND_Model* model, int* artifact_type, const char** location);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance* instance, void** state);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance* instance, void* state);
TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(
    TRITONBACKEND_Request* request, uint32_t index, TRITONBACKEND_Input** input);
TRITONSERVER_Error* TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input* input, const char** name, int* data_type, const int64_t** shape,
    uint32_t* axes, uint64_t* byte_size, uint32_t* buffer_count);
TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request, uint32_t flags);
TRITONSERVER_Error* TRITONBACKEND_ResponseNew(
    TRITONBACKEND_Response** response, TRITONBACKEND_Request* request);
TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response* response, TRITONBACKEND_Output** output, const char* name,
    int data_type, const int64_t* shape, uint32_t axes);
TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output* output, void** buffer, uint64_t byte_size, int* memory, int64_t* memory_id);
TRITONSERVER_Error* TRITONBACKEND_ResponseSend(
    TRITONBACKEND_Response* response, uint32_t flags, TRITONSERVER_Error* error);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, bool success,
    uint64_t began_ns, uint64_t compute_began_ns, uint64_t compute_ended_ns, uint64_t ended_ns);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance* instance, uint64_t rows,
    uint64_t began_ns, uint64_t compute_began_ns, uint64_t compute_ended_ns, uint64_t ended_ns);

/* Hands an error on to whoever answers the request. */
#define TRY(call)                        \
  do {                                   \
    TRITONSERVER_Error* error = (call);  \
    if (error != NULL) {                 \
      return error;                      \
    }                                    \
  } while (0)

static uint64_t now_ns(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void drop(TRITONSERVER_Error* error)
{
  if (error != NULL) {
    TRITONSERVER_ErrorDelete(error);
  }
}

/* What an execution of an accelerator takes; mapped, so that it is what was written last. */
struct control {
  double base_ms;
  double row_ms;
  double hang;
};

struct accelerator {
  volatile const struct control* control;
  int record;
};

static int opened(const char* folder, const char* name, int flags)
{
  char path[4096];
  const int length = snprintf(path, sizeof path, "%s/%s", folder, name);
  return length > 0 && (size_t)length < sizeof path ? open(path, flags | O_CLOEXEC, 0644) : -1;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance)
{
  TRITONBACKEND_Model* model;
  int type;
  const char* folder;
  TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
  TRY(TRITONBACKEND_ModelRepository(model, &type, &folder));
  const int control = opened(folder, "control", O_RDONLY);
  if (control < 0) {
    return TRITONBACKEND_ModelInstanceSetState(instance, NULL);
  }
  struct accelerator* made = malloc(sizeof *made);
  void* mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, control, 0);
  close(control);
  if (made == NULL || mapped == MAP_FAILED) {
    free(made);
    return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "the accelerator's control cannot be mapped");
  }
  made->control = mapped;
  made->record = opened(folder, "record", O_WRONLY | O_APPEND | O_CREAT);
  return TRITONBACKEND_ModelInstanceSetState(instance, made);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance)
{
  void* state = NULL;
  TRY(TRITONBACKEND_ModelInstanceState(instance, &state));
  struct accelerator* made = state;
  if (made != NULL) {
    munmap((void*)made->control, sizeof(struct control));
    if (made->record >= 0) {
      close(made->record);
    }
    free(made);
  }
  return NULL;
}

static void sleep_until(uint64_t when_ns)
{
  const struct timespec when = {
      .tv_sec = (time_t)(when_ns / 1000000000u), .tv_nsec = (long)(when_ns % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) != 0) {
  }
}

static int64_t rows_of(TRITONBACKEND_Request* request)
{
  TRITONBACKEND_Input* input;
  const int64_t* shape;
  uint32_t axes;
  TRITONSERVER_Error* error = TRITONBACKEND_RequestInputByIndex(request, 0, &input);
  if (error == NULL) {
    error = TRITONBACKEND_InputProperties(input, NULL, NULL, &shape, &axes, NULL, NULL);
  }
  const bool known = error == NULL && axes > 0;
  drop(error);
  return known ? shape[0] : 1;
}

/* Takes its time over an execution, and tells of it. */
static void execute(const struct accelerator* accelerator, TRITONBACKEND_Request** requests, uint32_t count,
                    uint64_t began_ns)
{
  int64_t rows = 0;
  for (uint32_t place = 0; place < count; place++) {
    rows += rows_of(requests[place]);
  }
  const double took_ms = accelerator->control->base_ms + accelerator->control->row_ms * (double)rows;
  sleep_until(began_ns + (uint64_t)(took_ms > 0 ? took_ms * 1e6 : 0));
  while (accelerator->control->hang != 0) {
    sleep_until(now_ns() + 10000000u);
  }
  const int64_t told[] = {(int64_t)began_ns, (int64_t)now_ns(), rows};
  if (accelerator->record >= 0 && write(accelerator->record, told, sizeof told) != (ssize_t)sizeof told) {
    fprintf(stderr, "an execution could not be recorded\n");
  }
}

/* Fills the response's one output from the request's first input; `rows` gets the length of its batch axis. */
static TRITONSERVER_Error* fill(
    TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, int64_t* rows)
{
  TRITONBACKEND_Input* input;
  const int64_t* shape;
  uint32_t axes;
  uint64_t taken;
  TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &input));
  TRY(TRITONBACKEND_InputProperties(input, NULL, NULL, &shape, &axes, &taken, NULL));
  *rows = axes > 0 ? shape[0] : 1;

  TRITONBACKEND_Output* output;
  const int64_t answer_shape[] = {*rows, 1};
  void* buffer;
  int memory = MEMORY_CPU;
  int64_t memory_id = 0;
  TRY(TRITONBACKEND_ResponseOutput(response, &output, "bytes", TYPE_INT64, answer_shape, 2));
  TRY(TRITONBACKEND_OutputBuffer(
      output, &buffer, (uint64_t)*rows * sizeof(int64_t), &memory, &memory_id));
  if (memory == MEMORY_GPU) {
    return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "the sink answers into host memory only");
  }
  for (int64_t row = 0; row < *rows; row++) {
    ((int64_t*)buffer)[row] = (int64_t)taken / *rows;
  }
  return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count)
{
  const uint64_t began_ns = now_ns();
  void* accelerator = NULL;
  drop(TRITONBACKEND_ModelInstanceState(instance, &accelerator));
  if (accelerator != NULL) {
    execute(accelerator, requests, count, began_ns);
  }
  const uint64_t computed_ns = now_ns();
  uint64_t all_rows = 0;
  for (uint32_t place = 0; place < count; place++) {
    TRITONBACKEND_Response* response = NULL;
    int64_t rows = 1;
    TRITONSERVER_Error* error = TRITONBACKEND_ResponseNew(&response, requests[place]);
    const bool made = error == NULL;
    if (made) {
      error = fill(requests[place], response, &rows);
    }
    const bool success = error == NULL;
    all_rows += (uint64_t)rows;
    if (made) {
      drop(TRITONBACKEND_ResponseSend(response, COMPLETE_FINAL, error));
    }
    drop(error);
    const uint64_t ended_ns = now_ns();
    drop(TRITONBACKEND_ModelInstanceReportStatistics(
        instance, requests[place], success, began_ns, began_ns, computed_ns, ended_ns));
    drop(TRITONBACKEND_RequestRelease(requests[place], RELEASE_ALL));
  }
  const uint64_t ended_ns = now_ns();
  drop(TRITONBACKEND_ModelInstanceReportBatchStatistics(
      instance, all_rows, began_ns, began_ns, computed_ns, ended_ns));
  return NULL;
}
