/* markup.h - what the files of the page writer share: text as HTML, the state of a page */
#ifndef MARKUP_H_INCLUDED
#define MARKUP_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "report.h"

enum { MAX_EDGE = 4096, MAX_PAGE = 1 << 30 };

void text_put(bmvp_bytes *t, const char *s);
/* Markup whose arguments are numbers or our own words: at most 511 bytes. */
void text_format(bmvp_bytes *t, const char *format, ...) BMVP_PRINTF(2, 3);
/* Text of the caller, for element content and for attributes in double quotes. */
void text_escape(bmvp_bytes *t, const char *s);
void text_element(bmvp_bytes *t, const char *open, const char *s, const char *close);

/* The state of a report: the first error sticks. */
bmvp_status report_state(report_page *r);
/* A figure, its title (or NULL) and its sentence, `about`, which stands below; NULL: its section's. BMVP_E_ARG if
   nothing explains it. */
bmvp_status figure_open(report_page *r, const char *title, const char *about);
void figure_close(report_page *r, const char *about);
/* Opens a table that scrolls sideways on narrow screens; its caption stays outside, where it can wrap. */
void put_scroll(report_page *r, const char *kind, const char *caption);

#endif
