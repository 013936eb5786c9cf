# SPDX-License-Identifier: GPL-2.0-only
# What the Kbuild of every family includes, after setting `mistakes` to the
# names of its bad variants. The builder says `make ... KMH_VARIANT=<name>`;
# kmh_mistake.h and kmh_compat.h are the C side.
KMH_VARIANT ?= good

ifeq ($(filter $(KMH_VARIANT),good $(mistakes)),)
$(error KMH_VARIANT=$(KMH_VARIANT) is not one of: good $(mistakes))
endif

# A tail call takes its caller out of the stack traces that name findings.
ccflags-y += -I$(src)/../include -fno-optimize-sibling-calls
ccflags-y += -DKMH_KERNEL_MAJOR=$(VERSION) -DKMH_KERNEL_MINOR=$(PATCHLEVEL)
ccflags-y += -DKMH_VARIANT=\"$(KMH_VARIANT)\"
ifneq ($(KMH_VARIANT),good)
ccflags-y += -DKMH_MISTAKE_$(subst -,_,$(KMH_VARIANT))=1
endif
